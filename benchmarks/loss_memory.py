"""The memory, time and exactness of the loss of stage 2 with two million negatives at once.

Everything runs in a separate process: it makes the catalogue, notes the resident set, draws a pool, and runs the loss forward
and backward. Memory is by how much the peak of the resident set exceeds the noted one. Then parts of the pool are taken, because
all parts are alike: the time of each is divided by that of as much work in matrix products right after it, and the median counts.

Q: queries, N: items, K: drawn candidates, C: some of them, D: item width, P: popularity dimensions, V: D + P, M: past items
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from benchmarks.kernel_races.loss_gemm import products_of
from benchmarks.report import Row, write_report
from benchmarks.training_throughput import GIGA
from training.kernels.candidates import ItemVectors, Pool
from training.kernels.softmax_tiles import TILE_QUERIES, TILE_SCORES
from training.kernels.trained_softmax import PastPairs
from training.losses.candidates import Proposal, propose
from training.losses.frozen_loss import frozen_set_loss
from training.losses.trained_loss import NextItems
from training.recipes.config import StageConfig

MB = 1e6
TURNS, PARTS = 3, 4  # the loss over a part of the pool, and its products, are timed in turns
FLOAT, LONG = 4, 8  # bytes
NUM_CHECKED = 16  # queries that are checked in float64
CHECKED_AT_ONCE = 50_000  # candidates scored at once in the check


@dataclass(frozen=True, slots=True)
class Size:
    """The size of the problem. The default has as many candidates as the largest published run."""

    num_queries: int = 4096
    num_candidates: int = 2_000_000
    num_items: int = 3_000_000
    width: int = 128
    num_days: int = 8
    num_past: int = 64  # of a query
    num_answers: int = 8

    @property
    def flops(self) -> float:
        """FLOPs of the two matrix products: scores, and the gradient."""
        return 4.0 * self.num_queries * self.num_candidates * self.width

    @property
    def predicted_bytes(self) -> int:
        """Memory for drawing (a random number per item) or for the loss (pairs, answers, query gradients and one tile)."""
        num_pairs = self.num_queries * (self.num_past + self.num_answers)
        scored = self.num_queries * (self.width + 1) * FLOAT
        drawn = self.num_items * (LONG + FLOAT) + self.num_candidates * (LONG + FLOAT)
        drawing = self.num_items * (LONG + 1)
        pairs = num_pairs * 13 * LONG  # keys, queries, rows, columns, places, their order, and the pairs in it
        answers = 4 * self.num_answers * scored  # their items, queries and products, and one gradient
        tile_candidates = TILE_SCORES // min(TILE_QUERIES, self.num_queries)
        num_scans = min(torch.get_num_threads(), -(-self.num_queries // TILE_QUERIES))  # at once, each with a tile
        tile = (2 * TILE_SCORES + (self.width + self.num_days) * tile_candidates) * FLOAT * num_scans
        return drawn + max(drawing, pairs + answers + 6 * scored + tile)


@dataclass(frozen=True, slots=True)
class Problem:
    """The frozen items and the queries of a step."""

    catalogue: ItemVectors
    query_QV: Tensor
    past: PastPairs
    answers: NextItems
    day_Q: Tensor

    def loss(self, pool: Pool) -> Tensor:
        """The loss as a training step computes it."""
        return frozen_set_loss(self.query_QV, self.past, self.answers, self.day_Q, self.catalogue, pool)

    def seconds(self, pool: Pool) -> float:
        """How long the loss takes, forward and backward. Adds to the gradients of the queries."""
        started = time.perf_counter()
        self.loss(pool).backward()  # type: ignore[no-untyped-call]
        return time.perf_counter() - started

    def first(self, num_queries: int) -> "Problem":
        """The problem with the first queries only."""
        past_of_first, answers_of_first = self.past.query_M < num_queries, self.answers.query_A < num_queries
        return Problem(
            self.catalogue,
            self.query_QV[:num_queries],
            PastPairs(*(column[past_of_first] for column in self.past)),
            NextItems(*(column[answers_of_first] for column in self.answers)),
            self.day_Q[:num_queries],
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of one process."""

    peak_bytes: int
    num_drawn: int
    seconds: float
    threads: int
    part_s: list[float]  # the loss over parts of the pool
    products_s: list[float]  # as much work in matrix products, each right after a part
    loss_error: float  # relative to float64
    gradient_error: float  # relative to the largest gradient of the checked queries


def main(argv: Sequence[str] | None = None) -> int:
    """Measure in a separate process and report. Exit status 1 when a figure misses its limit."""
    parser = argparse.ArgumentParser(prog="loss_memory", description=__doc__)
    parser.add_argument("--candidates", type=int, default=Size().num_candidates, help="drawn from 1.5 times as many items")
    parser.add_argument("--measure", action="store_true", help="measure in this process and print JSON")
    args = parser.parse_args(argv)
    size = Size(num_candidates=args.candidates, num_items=args.candidates * 3 // 2)
    if args.measure:
        print(json.dumps(asdict(measure(size))))
        return 0
    command = [sys.executable, "-m", "benchmarks.loss_memory", "--measure", "--candidates", str(args.candidates)]
    rows = rows_of(size, Measured(**json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)))
    write_report("loss_memory", rows)
    return 0 if all(row.meets_must for row in rows) else 1


def rows_of(size: Size, measured: Measured) -> list[Row]:
    """The rows of the report. Peaks exclude the memory of the catalogue, from which candidates are read without a copy."""
    gflop = size.flops * measured.num_drawn / size.num_candidates / GIGA
    ratio = median(part_s / products_s for part_s, products_s in zip(measured.part_s, measured.products_s, strict=True))
    scores_mb = size.num_queries * measured.num_drawn * FLOAT / MB
    candidates_mb = measured.num_drawn * size.width * FLOAT / MB
    return [
        Row(metric="loss_peak_mb", value=measured.peak_bytes / MB, unit="MB", better="lower", must=512.0, goal=256.0),
        Row(metric="loss_predicted_mb", value=size.predicted_bytes / MB, unit="MB", better="lower"),
        Row(metric="loss_logits_mb", value=scores_mb, unit="MB, not allocated", better="lower"),
        Row(metric="loss_candidates_mb", value=candidates_mb, unit="MB, of the catalogue", better="lower"),
        Row(metric="loss_candidates", value=measured.num_drawn, unit="drawn", better="higher"),
        Row(metric="loss_s", value=measured.seconds, unit="s", better="lower"),
        Row(metric="loss_threads", value=measured.threads, unit="threads", better="lower"),
        Row(metric="loss_gflops", value=gflop / measured.seconds, unit="GFLOP/s", better="higher"),
        Row(metric="loss_gemm_gflops", value=gflop / PARTS / median(measured.products_s), unit="GFLOP/s", better="higher"),
        Row(metric="pool_gemm_ratio", value=ratio, unit="", better="lower", must=2.0, goal=1.5),
        Row(metric="loss_error", value=measured.loss_error, unit="", better="lower", must=1e-5, goal=1e-6),
        Row(metric="loss_gradient_error", value=measured.gradient_error, unit="", better="lower", must=1e-4, goal=1e-5),
    ]


def measure(size: Size) -> Measured:
    """Draw a pool, run the loss forward and backward beside products, and compare a few queries with float64."""
    problem = make_problem(size)
    problem.first(NUM_CHECKED).loss(Pool(torch.arange(64), torch.zeros(64)))  # so that nothing is loaded during the measurement
    baseline = memory("VmRSS")
    proposal = propose(StageConfig(share=1.0, num_negatives=size.num_candidates, train_embedder=False), np.ones(size.num_items))
    assert proposal is not None
    pool = draw(proposal)
    seconds = problem.seconds(pool)
    peak, (loss_error, gradient_error) = memory("VmHWM") - baseline, errors(problem, pool)
    products = products_of(size.flops * len(pool) / size.num_candidates / PARTS)
    part_s, products_s = [], []
    for turn in range(TURNS):
        here = slice(turn * len(pool) // PARTS, (turn + 1) * len(pool) // PARTS)
        part_s.append(problem.seconds(Pool(pool.rows_K[here], pool.log_weight_K[here])))
        started = time.perf_counter()
        products()
        products_s.append(time.perf_counter() - started)
    return Measured(peak, len(pool), seconds, torch.get_num_threads(), part_s, products_s, loss_error, gradient_error)


def make_problem(size: Size) -> Problem:
    """Random vectors with a spread of scores as of a trained model. The first past item of a query is also its first answer."""
    generator = torch.Generator().manual_seed(0)
    vectors_ND = torch.empty(size.num_items, size.width).normal_(generator=generator)
    popularity_PTN = torch.empty(1, size.num_days, size.num_items).normal_(generator=generator)
    query_QV = torch.empty(size.num_queries, size.width + 1).normal_(std=2 / math.sqrt(size.width), generator=generator)
    past_QM = (torch.rand(size.num_queries, size.num_past, generator=generator) * (size.num_items // size.num_past)).long()
    past_QM += torch.arange(size.num_past) * (size.num_items // size.num_past)  # distinct, and sorted
    answers_QA = past_QM[:, :1] + torch.arange(size.num_answers)
    queries = torch.arange(size.num_queries)
    num_answers = answers_QA.numel()
    return Problem(
        ItemVectors(vectors_ND, popularity_PTN),
        query_QV.requires_grad_(),
        PastPairs(queries.repeat_interleave(size.num_past), past_QM.flatten(), torch.ones(past_QM.numel(), requires_grad=True)),
        NextItems(queries.repeat_interleave(size.num_answers), answers_QA.flatten(), torch.full((num_answers,), 1 / num_answers)),
        torch.randint(size.num_days, (size.num_queries,), generator=generator),
    )


def draw(proposal: Proposal) -> Pool:
    """Draw a pool with a fixed seed."""
    drawn = proposal.draw(np.random.default_rng(0))
    return Pool(torch.from_numpy(drawn.rows_C), torch.from_numpy(drawn.log_weight_C))


def memory(field: str) -> int:
    """Memory of this process in bytes. `field` is VmRSS, the resident set, or VmHWM, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def errors(problem: Problem, pool: Pool) -> tuple[float, float]:
    """Errors of the loss of the first queries, and of their gradients in the run with all queries."""
    assert problem.query_QV.grad is not None
    few = problem.first(NUM_CHECKED)
    loss = few.loss(pool).item()
    truth, gradient_QV = dense(few, pool)
    found_QV = problem.query_QV.grad[: len(few.query_QV)]
    return abs(loss / truth - 1), ((found_QV - gradient_QV).abs().max() / gradient_QV.abs().max()).item()


def dense(problem: Problem, pool: Pool) -> tuple[float, Tensor]:
    """The loss by its definition in float64, with all scores in memory, and the gradients of the queries."""
    query_QV = problem.query_QV.detach().double().requires_grad_()
    num_queries, num_items = len(query_QV), len(problem.catalogue.vectors_ND)
    others, parts = torch.zeros(num_queries, num_items, dtype=torch.bool), []
    others[:, pool.rows_K] = True
    held = torch.zeros_like(others)
    held[problem.past.query_M, problem.past.column_M] = True
    held[problem.answers.query_A, problem.answers.column_A] = True
    repeat_QN = torch.zeros(num_queries, num_items, dtype=torch.float64)
    repeat_QN[problem.past.query_M, problem.past.column_M] = problem.past.repeat_M.detach().double()
    log_weight_N = torch.zeros(num_items, dtype=torch.float64).index_copy(0, pool.rows_K, pool.log_weight_K.double())
    for start in range(0, num_items, CHECKED_AT_ONCE):
        rows = torch.arange(start, min(start + CHECKED_AT_ONCE, num_items))
        vectors_CD = problem.catalogue.vectors_ND[rows].double()
        popularity_QC = problem.catalogue.popularity_PTN[0, problem.day_Q[:, None], rows].double()
        scores_QC = query_QV[:, :-1] @ vectors_CD.T + query_QV[:, -1:] * popularity_QC + repeat_QN[:, rows]
        weighted_QC = torch.where(held[:, rows], scores_QC, scores_QC + log_weight_N[rows])
        parts.append(weighted_QC.masked_fill(~(held | others)[:, rows], -torch.inf).logsumexp(1))
    log_partition_Q = torch.stack(parts, 1).logsumexp(1)
    answers = problem.answers
    item_AV = problem.catalogue.items(answers.column_A, problem.day_Q[answers.query_A]).double()
    score_A = (query_QV[answers.query_A] * item_AV).sum(1) + repeat_QN[answers.query_A, answers.column_A]
    loss = ((log_partition_Q[answers.query_A] - score_A) * answers.weight_A).sum()
    return loss.item(), torch.autograd.grad(loss, query_QV)[0]


if __name__ == "__main__":
    sys.exit(main())
