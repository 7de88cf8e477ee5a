"""The kinds of index that FAISS searches on a GPU, built as the nightly job builds them and searched as the server searches.

N: items, V: vector width, D: embedding width, Q: queries, K: results
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
import torch

from benchmarks.device_path.figures import Figure, seconds
from benchmarks.device_path.sizes import FULL, Sizes, model_config
from embedder_cache.checks.index_choice import EFFORTS, RECALL, RESULTS, recall
from twotower.data.features import Floats, Ints
from twotower.device import Device
from twotower.errors import EnvironmentProblem
from twotower.index.files import open_index, write_index
from twotower.index.gpu import GpuFinder, check_room, gpu_of
from twotower.index.gpu_memory import built_bytes, gib, held_bytes
from twotower.index.kinds import GPU_KINDS, GpuKind, IndexInfo
from twotower.index.scan import Float32Rows, Scan
from twotower.index.search import Index
from twotower.memory import available_bytes

BATCHES = (1, 32)  # queries searched at once
NUM_QUERIES, NUM_CLUSTERS = 256, 500
COPIES = 4  # of the vectors in the processor's memory at once, at most: the graph of CAGRA is made from a copy, and has one
_DRAWN_AT_ONCE = 65_536


@dataclass(frozen=True, slots=True)
class Questions:
    """Item vectors, queries, and the exact best rows of each query."""

    vectors_NV: Floats
    queries_QV: Floats
    truth_QK: Ints


def faiss_kinds(sizes: Sizes, device: Device, timing: bool) -> Iterator[Figure]:
    """Of each kind and number of items: the seconds to build it, its queries per second, and its recall beside the exact kind."""
    if not timing:
        yield from planned()
        return
    torch.cuda.empty_cache()  # FAISS cannot use what torch keeps for itself
    kinds: list[GpuKind] = []
    for kind in GPU_KINDS:
        try:
            gpu_of(kind, device)
        except EnvironmentProblem as problem:
            yield unmeasured(kind, str(problem))
            if not kinds:  # what the first kind lacks, the others lack too
                return
        else:
            kinds.append(kind)
    ends = time.monotonic() + sizes.index_s
    cost_s, questions_s = dict.fromkeys(kinds, 0.0), 0.0  # an item: of a kind, and of what all kinds are asked
    for num_items in sizes.num_indexed:
        questions: Questions | None = None
        for kind in list(cost_s):
            title, started = f"{kind}, {num_items:,} items", time.monotonic()
            needed_s, left_s = num_items * (cost_s[kind] + (0 if questions else questions_s)), ends - started
            if needed_s > left_s:
                yield unmeasured(title, f"it would take about {needed_s:,.0f} s, and {left_s:,.0f} s are left")
                continue
            try:
                check_memory(kind, num_items, sizes, device)
                if questions is None:
                    questions = questions_of(sizes, num_items)
                    questions_s = (time.monotonic() - started) / num_items
                    started = time.monotonic()
                yield from measured(title, kind, questions, sizes, device)
            except Exception as error:  # a kind that fails must not end the run
                yield unmeasured(title, " ".join(str(error).split()))
                del cost_s[kind]
            else:
                cost_s[kind] = (time.monotonic() - started) / num_items


def unmeasured(name: str, why: str) -> Figure:
    """A figure without a value."""
    return Figure(name, None, "queries/s", "higher", why)


def planned() -> Iterator[Figure]:
    """What a run on a GPU would build and search, and the memory that this would take there."""
    for num_items in FULL.num_indexed:
        for kind in GPU_KINDS:
            size = size_of_index(num_items, FULL)
            built, held = gib(built_bytes(kind, *size)), gib(held_bytes(kind, *size))
            asked = " and ".join(map(str, BATCHES))
            note = f"would build it in {built} of the GPU, hold {held} there, and search {asked} queries at once"
            yield unmeasured(f"{kind}, {num_items:,} items", note)


def size_of_index(num_items: int, sizes: Sizes) -> tuple[int, int, int]:
    """The size that the formulas of memory take: items, columns of a vector, and those of the embedding."""
    return num_items, sizes.width + model_config(sizes).num_popularity, sizes.width


def check_memory(kind: GpuKind, num_items: int, sizes: Sizes, device: Device) -> None:
    """EnvironmentProblem when the GPU or the processor has too little memory for an index, before its vectors are made."""
    size = size_of_index(num_items, sizes)
    check_room(kind, built_bytes(kind, *size), gpu_of(kind, device))
    needed, here = COPIES * 4 * size[0] * size[1], available_bytes()
    if here is not None and needed > here:
        raise EnvironmentProblem(f"up to {gib(needed)} of the processor's memory would be needed, and {gib(here)} are free")


def questions_of(sizes: Sizes, num_items: int) -> Questions:
    """Embeddings and queries around cluster centres, and log popularity that is low for most items."""
    rng, width = np.random.default_rng(4), sizes.width
    num_columns = size_of_index(num_items, sizes)[1]
    centres_CD = rng.standard_normal((NUM_CLUSTERS, width), np.float32) / np.float32(width**0.5)

    def drawn(num: int) -> Floats:
        noise = rng.standard_normal((num, width), np.float32) * np.float32(0.7 / width**0.5)
        return np.asarray(centres_CD[rng.integers(0, NUM_CLUSTERS, num)] + noise, np.float32)

    vectors_NV = np.empty((num_items, num_columns), np.float32)
    for start in range(0, num_items, _DRAWN_AT_ONCE):
        part_NV = vectors_NV[start : start + _DRAWN_AT_ONCE]
        part_NV[:, :width] = drawn(len(part_NV))
        part_NV[:, width:] = np.minimum(rng.exponential(1.3, (len(part_NV), num_columns - width)) - 13.7, 0)
    weights_QP = rng.normal(0.9, 0.05, (NUM_QUERIES, num_columns - width))
    queries_QV = np.concatenate([3 * drawn(NUM_QUERIES), weights_QP], 1).astype(np.float32)
    exact = Scan(Float32Rows(vectors_NV))
    return Questions(vectors_NV, queries_QV, Index("flat", vectors_NV, exact, exact).search(queries_QV, RESULTS)[0])


def measured(title: str, kind: GpuKind, questions: Questions, sizes: Sizes, device: Device) -> Iterator[Figure]:
    """The figures of one index. Its effort is chosen with half of the queries, and its recall measured with the others."""
    vectors_NV, queries_QV = questions.vectors_NV, questions.queries_QV
    with tempfile.TemporaryDirectory() as directory:
        started = time.perf_counter()
        write_index(Path(directory), vectors_NV, sizes.width, kind, device)
        written = time.perf_counter()
        index = open_index(Path(directory), vectors_NV, sizes.width, IndexInfo(kind=kind), device)
        opened = time.perf_counter()
    note = f"{written - started:.1f} s to build and write, {opened - written:.1f} s to move to the GPU"
    yield Figure(f"{title}, build", opened - started, "s", "lower", note)
    half = NUM_QUERIES // 2
    effort = take_effort(index, kind, queries_QV[:half], questions.truth_QK[:half])
    for batch in BATCHES:
        parts = cycle([queries_QV[start : start + batch] for start in range(0, NUM_QUERIES, batch)])
        found = seconds(lambda parts=parts: index.search(next(parts), RESULTS), sizes.rounds)  # type: ignore[misc]
        note = f"p50 {1e3 * statistics.median(found):.3f} ms, effort {effort}"
        yield Figure(f"{title}, batch {batch}", batch / statistics.median(found), "queries/s", "higher", note)
    share = recall(index.search(queries_QV[half:], RESULTS)[0], questions.truth_QK[half:])
    yield Figure(f"{title}, recall@{RESULTS}", share, "share", "higher", f"of the exact kind, effort {effort}")


def take_effort(index: Index, kind: GpuKind, queries_QV: Floats, truth_QK: Ints) -> int:
    """Give an index the effort that the nightly job would choose: the first that finds enough, else the last."""
    finder = index.finder
    assert isinstance(finder, GpuFinder)
    for effort in EFFORTS.get(kind, (0,)):
        finder.effort = effort
        if recall(index.search(queries_QV, RESULTS)[0], truth_QK) >= RECALL:
            break
    return finder.effort
