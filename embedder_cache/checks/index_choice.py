"""Chooses the index of a release by the size of the catalogue, and measures its recall and speed on query vectors.

N: items, V: vector width, D: embedding width, Q: queries, K: results
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from twotower.data.features import Floats, Ints
from twotower.device import ON_CPU, Device
from twotower.errors import EnvironmentProblem
from twotower.index.files import open_index, write_index
from twotower.index.gpu import free_bytes, require_gpu, size_of
from twotower.index.gpu_memory import fitting_kind
from twotower.index.kinds import CODED, EXACT, FILES, GPU_KINDS, IndexInfo, Kind
from twotower.index.scan import Float32Rows, Scan
from twotower.index.search import Index
from twotower.progress import say

RequestedKind = Kind | Literal["auto"]
RESULTS = 100
TIMED_QUERIES, TIMED_RUNS = 25, 3
EXACT_QUERIES = 8  # an exact kind proves each answer; they show that the proof holds on this machine
RECALL = 0.95  # that an approximate index must reach for `auto` to take it
# Values of `effort` to try: the first that reaches RECALL is taken, else the last.
EFFORTS: dict[Kind, tuple[int, ...]] = {
    "ivfpq": (8, 16, 32, 64, 128),
    "hnsw": (1000, 2000, 4000),
    "milvus": (1000, 2000, 4000),
    "gpu_ivfpq": (8, 16, 32, 64, 128),
    "gpu_cagra": (256, 512, 1024),
}


class IndexReport(msgspec.Struct, frozen=True, kw_only=True):
    """The index that was built, why, and what was measured: a part of gates.json."""

    kind: Kind
    why: str
    recall: float  # share of the exact top 100 that the index finds
    memory_bytes: int
    search_p99_ms: float  # one query at a time


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes at which `auto` chooses another kind."""

    flat_bytes: int = 1 << 28  # above, int8 codes take a quarter of the memory
    exact_items: int = 2_000_000  # above, a full scan takes some tenths of a second on two cores


@dataclass(frozen=True, slots=True)
class Made:
    """An index that was written into the release's directory."""

    info: IndexInfo
    report: IndexReport


def refuse_without_gpu(requested: RequestedKind, device: Device) -> None:
    """EnvironmentProblem when the requested kind is for GPUs, and `device` or the FAISS of this machine cannot have it."""
    for kind in GPU_KINDS:
        if kind == requested:
            require_gpu(kind, device)


def make_index(
    directory: Path,
    vectors_NV: Floats,
    width: int,
    requested: RequestedKind,
    queries_QV: Floats,
    sizes: Sizes = Sizes(),
    device: Device = ON_CPU,
    stored: bool = True,
) -> Made:
    """Build and measure the requested kind of index, or the one that suits. The first `width` columns are the embedding.

    The index is built, and will be searched, on `device`, if its kind is for GPUs. EnvironmentProblem when that cannot be.
    Unless `stored`, codes are not written: who opens the index makes them from the vectors.
    """
    make = partial(_make, directory, vectors_NV, width, queries_QV, stored)
    if requested != "auto":
        return make(requested, "asked for", device)
    if device.is_gpu and (made := _make_for_gpu(directory, vectors_NV, width, make, sizes, device)) is not None:
        return made
    if len(vectors_NV) > sizes.exact_items:
        why = f"more than {sizes.exact_items:,} items"
        made = make("ivfpq", why)
        if made.report.recall >= RECALL:
            return made
        for name in FILES["ivfpq"]:
            (directory / name).unlink()
        return make("int8", f"{why}, but ivfpq finds only {made.report.recall:.1%} of the exact best {RESULTS}")
    megabytes = sizes.flat_bytes / 2**20
    if vectors_NV.nbytes > sizes.flat_bytes:
        return make("int8", f"vectors of more than {megabytes:,.0f} MiB")
    return make("flat", f"vectors of no more than {megabytes:,.0f} MiB")


def _make_for_gpu(
    directory: Path, vectors_NV: Floats, width: int, make: Callable[[Kind, str, Device], Made], sizes: Sizes, device: Device
) -> Made | None:
    """The kind that suits a GPU of this memory; None when none does, or FAISS cannot use the GPU, which is said."""
    exact: Kind = "int8" if vectors_NV.nbytes > sizes.flat_bytes else "flat"
    choice = fitting_kind(*size_of(vectors_NV, width), free_bytes(device), exact)
    if choice is None:
        say(f"  no kind of index fits on {device.torch_device} twice, so one for the CPU is built")
        return None
    kind, why = choice
    try:
        made = make(kind, why, device)
    except EnvironmentProblem as problem:
        say(f"  an index for the CPU is built, because {problem}")
        return None
    if made.report.recall >= RECALL:
        return made
    for name in made.info.files:
        (directory / name).unlink()
    say(f"  an index for the CPU is built, because {kind} finds only {made.report.recall:.1%} of the exact best {RESULTS}")
    return None


def _make(
    directory: Path,
    vectors_NV: Floats,
    width: int,
    queries_QV: Floats,
    stored: bool,
    kind: Kind,
    why: str,
    device: Device = ON_CPU,
) -> Made:
    stored = stored or kind not in CODED
    if stored:
        write_index(directory, vectors_NV, width, kind, device)
    timed_QV, queries_QV = queries_QV[:TIMED_QUERIES], queries_QV[: EXACT_QUERIES if kind in EXACT else None]
    exact = Scan(Float32Rows(vectors_NV))
    truth_QK, _ = Index("flat", vectors_NV, exact, exact).search(queries_QV, RESULTS)
    index: Index | None = None
    for effort in EFFORTS.get(kind, (0,)):
        info = IndexInfo(kind=kind, effort=effort, stored=stored)
        index = None  # frees it before the next is opened, because a GPU may not hold two
        index = open_index(directory, vectors_NV, width, info, device)
        found = recall(index.search(queries_QV, RESULTS)[0], truth_QK)
        if found >= RECALL:
            break
    assert index is not None, "every kind has an effort"
    times = search_p99_ms(index, timed_QV)
    return Made(info, IndexReport(kind=kind, why=why, recall=found, memory_bytes=index.finder.num_bytes, search_p99_ms=times))


def search_p99_ms(index: Index, queries_QV: Floats) -> float:
    """99th percentile of the time of one search, over some queries.

    Each query counts with its fastest of three runs, because an interrupted run says nothing about the index. The percentile lies
    between the two slowest queries. So only those that may be among them are run again.
    """

    def timed_ms(query: int) -> float:
        started = time.perf_counter()
        index.search(queries_QV[query : query + 1], RESULTS)
        return (time.perf_counter() - started) * 1000

    times_ms = np.array([timed_ms(query) for query in range(len(queries_QV))])
    runs = np.ones(len(times_ms), int)
    while len(again := [query for query in np.argsort(-times_ms)[:2] if runs[query] < TIMED_RUNS]):
        times_ms[again[0]] = min(times_ms[again[0]], timed_ms(again[0]))
        runs[again[0]] += 1
    return float(np.quantile(times_ms, 0.99))


def recall(found_QK: Ints, truth_QK: Ints) -> float:
    """Mean share of the true rows that were found. Row -1 is padding."""
    pairs = zip(found_QK, truth_QK, strict=True)
    return float(np.mean([np.isin(truth_K[truth_K >= 0], found_K).mean() for found_K, truth_K in pairs]))
