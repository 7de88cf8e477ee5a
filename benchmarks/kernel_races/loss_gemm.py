"""The time of the frozen softmax on one CPU thread, divided by the time of its two matrix products alone.

Two million candidates with popularity are scored for a thousand queries, which is a part of a step: all blocks of queries are
alike. The products are timed as square matrix products of the same amount of work. Both times are the least CPU time of several
alternating measurements, so that other load affects both alike.

Q: queries, K: candidates, D: item width, T: days
"""

import math
import time
from collections.abc import Callable

import torch

from benchmarks.report import Row
from training.kernels.candidates import Certain, ItemVectors, WholeCatalogue
from training.losses.frozen_log_partition import frozen_log_partition

WIDTH, NUM_DAYS, TURNS = 128, 8, 3
GEMM_SIZE = 1024
MUST, GOAL = 1.3, 1.15


def rows(num_queries: int = 1024, num_candidates: int = 2_000_000) -> list[Row]:
    """The rows of the section `loss` of `benchmarks/kernels.py`."""
    loss = loss_of(num_queries, num_candidates)
    products = products_of(4 * num_queries * num_candidates * WIDTH)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    turns = [(cpu_seconds(loss), cpu_seconds(products)) for _ in range(TURNS)]
    torch.set_num_threads(threads)
    loss_s, products_s = (min(times) for times in zip(*turns, strict=True))
    return [
        Row(metric="loss_s", value=loss_s, unit="s", better="lower"),
        Row(metric="loss_products_s", value=products_s, unit="s, by the GEMM rate", better="lower"),
        Row(metric="loss_gemm_ratio", value=loss_s / products_s, unit="", better="lower", must=MUST, goal=GOAL),
    ]


def loss_of(num_queries: int, num_candidates: int) -> Callable[[], None]:
    """A function that computes log partitions and gradients of random vectors. Every query has one certain item."""
    generator = torch.Generator().manual_seed(0)
    vectors_KD = torch.empty(num_candidates, WIDTH).normal_(generator=generator)
    catalogue = ItemVectors(vectors_KD, torch.empty(1, NUM_DAYS, num_candidates).normal_(generator=generator))
    query_QV = torch.empty(num_queries, WIDTH + 1).normal_(std=2 / math.sqrt(WIDTH), generator=generator).requires_grad_()
    certain = Certain(torch.arange(num_queries), torch.arange(num_queries))
    day_Q = torch.arange(num_queries) % NUM_DAYS

    def loss() -> None:
        candidates = WholeCatalogue(num_candidates)
        total = frozen_log_partition(query_QV, torch.zeros(num_queries), certain, day_Q, catalogue, candidates).sum()
        torch.autograd.grad(total, query_QV)

    return loss


def products_of(flops: float) -> Callable[[], None]:
    """A function that does so many FLOPs in square matrix products."""
    left, right, out = (torch.randn(GEMM_SIZE, GEMM_SIZE) for _ in range(3))
    num_products = round(flops / (2 * GEMM_SIZE**3))

    def products() -> None:
        for _ in range(num_products):
            torch.mm(left, right, out=out)

    return products


def cpu_seconds(run: Callable[[], object]) -> float:
    """CPU time of this process for one call."""
    started = time.process_time()
    run()
    return time.process_time() - started
