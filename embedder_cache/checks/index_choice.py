"""Which index a release gets: chosen by the catalogue's size, proven on query vectors, and said why.

N: items, V: vector width, D: embedding width, Q: queries, K: results
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from twotower.data.features import Floats, Ints
from twotower.index.files import open_index, write_index
from twotower.index.kinds import FILES, IndexInfo, Kind
from twotower.index.scan import Float32Rows, Scan
from twotower.index.search import Index

RequestedKind = Kind | Literal["auto"]
RESULTS = 100
TIMED_QUERIES = 25
RECALL = 0.95  # that `auto` asks of an approximate index
# Of these the first with that recall is kept, else the last.
_EFFORTS: dict[Kind, tuple[int, ...]] = {"ivfpq": (8, 16, 32, 64, 128), "hnsw": (1000, 2000, 4000)}


class IndexReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was built and why, for gates.json."""

    kind: Kind
    why: str
    recall: float  # of the exact best 100
    memory_bytes: int
    search_p99_ms: float  # one query at a time


@dataclass(frozen=True, slots=True)
class Sizes:
    """Where `auto` changes its mind."""

    flat_bytes: int = 1 << 28  # above, the float32 vectors are worth a quarter of their memory
    exact_items: int = 2_000_000  # above, a scan takes some tenths of a second on two cores


@dataclass(frozen=True, slots=True)
class Made:
    """An index in its directory."""

    info: IndexInfo
    report: IndexReport


def make_index(
    directory: Path,
    vectors_NV: Floats,
    width: int,
    requested: RequestedKind,
    queries_QV: Floats,
    sizes: Sizes = Sizes(),
) -> Made:
    """Build the kind asked for, or the one that suits, over vectors whose first `width` columns are the embedding; measure it."""
    if requested != "auto":
        return _make(directory, vectors_NV, width, requested, "asked for", queries_QV)
    if len(vectors_NV) > sizes.exact_items:
        why = f"more than {sizes.exact_items:,} items"
        made = _make(directory, vectors_NV, width, "ivfpq", why, queries_QV)
        if made.report.recall >= RECALL:
            return made
        for name in FILES["ivfpq"]:
            (directory / name).unlink()
        why = f"{why}, but ivfpq finds only {made.report.recall:.1%} of the exact best {RESULTS}"
        return _make(directory, vectors_NV, width, "int8", why, queries_QV)
    megabytes = sizes.flat_bytes / 2**20
    if vectors_NV.nbytes > sizes.flat_bytes:
        return _make(directory, vectors_NV, width, "int8", f"vectors of more than {megabytes:,.0f} MiB", queries_QV)
    return _make(directory, vectors_NV, width, "flat", f"vectors of no more than {megabytes:,.0f} MiB", queries_QV)


def _make(directory: Path, vectors_NV: Floats, width: int, kind: Kind, why: str, queries_QV: Floats) -> Made:
    write_index(directory, vectors_NV, width, kind)
    exact = Scan(Float32Rows(vectors_NV))
    truth_QK, _ = Index("flat", vectors_NV, exact, exact).search(queries_QV, RESULTS)
    for effort in _EFFORTS.get(kind, (0,)):
        info = IndexInfo(kind=kind, effort=effort)
        index = open_index(directory, vectors_NV, width, info)
        found = recall(index.search(queries_QV, RESULTS)[0], truth_QK)
        if found >= RECALL:
            break
    times = search_p99_ms(index, queries_QV)
    return Made(info, IndexReport(kind=kind, why=why, recall=found, memory_bytes=index.finder.num_bytes, search_p99_ms=times))


def search_p99_ms(index: Index, queries_QV: Floats) -> float:
    """99th percentile of the time of one search over the first 25 queries, each the fastest of three.

    Where one of them is interrupted it is the machine that was slow, not the index.
    """

    def timed_ms(query_1V: Floats) -> float:
        started = time.perf_counter()
        index.search(query_1V, RESULTS)
        return (time.perf_counter() - started) * 1000

    queries = [query_V[None] for query_V in queries_QV[:TIMED_QUERIES]]
    return float(np.quantile([min(timed_ms(query_1V) for _ in range(3)) for query_1V in queries], 0.99))


def recall(found_QK: Ints, truth_QK: Ints) -> float:
    """Mean share of the true rows that were found; -1 fills up."""
    pairs = zip(found_QK, truth_QK, strict=True)
    return float(np.mean([np.isin(truth_K[truth_K >= 0], found_K).mean() for found_K, truth_K in pairs]))
