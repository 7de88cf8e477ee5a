"""Search on one thread: exact indexes against FAISS' flat index, int8 against float32, and the recall of the approximate one.

Vectors are synthetic, with clusters and popularity like those of a shop, or those of a release in a store; then the queries come
from made-up histories. Contenders take turns, so that other load on the machine affects all of them.

N: items, V: vector width, D: embedding width, P: popularity dimensions, Q: queries, K: results
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss as faiss_module
import numpy as np
import torch

from benchmarks.report import Row, write_report
from embedder_cache.build import sample_queries
from embedder_cache.checks.index_choice import make_index, recall
from twotower.artefacts.bundle import load_towers
from twotower.artefacts.parts import read_vectors
from twotower.artefacts.release import read_pointer, release_path, verify_release
from twotower.data.features import Floats
from twotower.index.files import open_index, write_index
from twotower.index.kinds import IndexInfo, Kind
from twotower.index.search import Index

faiss: Any = faiss_module

NUM_ITEMS, WIDTH, NUM_POPULARITY = 92_000, 128, 2
NUM_CLUSTERS = 500
THREADS, ROUNDS, RESULTS = 1, 15, 100  # one thread, because idle OpenMP threads spin and slow down the others
NUM_COMPARED = 10_000  # queries for which int8 must give the same answer as float32
BATCH = 64


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures, which `benchmarks/catalogue.py` reports too."""

    exact_speedup_b1: float
    exact_speedup_b64: float
    int8_over_flat_b1: float  # time of one query
    int8_id_mismatches: int
    int8_bytes_fraction: float
    approx_recall100: float
    faiss_b1_ms: float
    exact_b1_ms: float
    int8_b1_ms: float
    approx_b1_ms: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report. Exit status 1 when a figure misses its limit."""
    parser = argparse.ArgumentParser(prog="search", description=__doc__)
    parser.add_argument("--store", type=Path, help="measure with the vectors of this store's release instead of synthetic ones")
    args = parser.parse_args(argv)
    rows = rows_of(measure(*(synthetic() if args.store is None else of_store(args.store))))
    write_report("search", rows)
    return 0 if all(row.meets_must for row in rows) else 1


def rows_of(measured: Measured) -> list[Row]:
    """The rows of the report."""
    return [
        Row(metric="exact_speedup_b1", value=measured.exact_speedup_b1, unit="x FAISS flat", better="higher", must=1.0),
        Row(metric="exact_speedup_b64", value=measured.exact_speedup_b64, unit="x FAISS flat", better="higher", must=3.0),
        Row(metric="int8_over_flat_b1", value=measured.int8_over_flat_b1, unit="of flat's", better="lower", must=1.5, goal=0.8),
        Row(metric="int8_id_mismatches", value=measured.int8_id_mismatches, unit="queries", better="lower", must=0),
        Row(metric="int8_bytes_fraction", value=measured.int8_bytes_fraction, unit="of float32", better="lower", must=0.30),
        Row(metric="approx_recall100", value=measured.approx_recall100, unit="ivfpq", better="higher", must=0.95),
        Row(metric="faiss_b1_ms", value=measured.faiss_b1_ms, unit="ms", better="lower"),
        Row(metric="exact_b1_ms", value=measured.exact_b1_ms, unit="ms", better="lower"),
        Row(metric="int8_b1_ms", value=measured.int8_b1_ms, unit="ms", better="lower"),
        Row(metric="approx_b1_ms", value=measured.approx_b1_ms, unit="ms", better="lower"),
    ]


def measure(vectors_NV: Floats, width: int, queries_QV: Floats) -> Measured:
    """Measure all figures with vectors whose first `width` columns are the embedding."""
    torch.set_num_threads(THREADS)
    faiss.omp_set_num_threads(THREADS)
    theirs = faiss.IndexFlatIP(vectors_NV.shape[1])
    theirs.add(vectors_NV)
    with tempfile.TemporaryDirectory() as directory:
        flat, int8 = (opened(Path(directory), vectors_NV, width, kind) for kind in ("flat", "int8"))
        # The search effort is chosen with the first half of the queries; recall is measured on the second.
        half = len(queries_QV) // 2
        made = make_index(Path(directory), vectors_NV, width, "ivfpq", queries_QV[:half])
        ivfpq = open_index(Path(directory), vectors_NV, width, made.info)
        alone, batch = queries_QV[:1], queries_QV[:BATCH]
        faiss_s, flat_s, int8_s, ivfpq_s = take_turns(
            [
                lambda: theirs.search(alone, RESULTS),
                *((lambda index=index: index.search(alone, RESULTS)) for index in (flat, int8, ivfpq)),
            ]
        )
        faiss_batch_s, flat_batch_s = take_turns([lambda: theirs.search(batch, RESULTS), lambda: flat.search(batch, RESULTS)])
        truth_QK, found_QK = (index.search(queries_QV[half:], RESULTS)[0] for index in (flat, ivfpq))
        return Measured(
            exact_speedup_b1=faiss_s / flat_s,
            exact_speedup_b64=faiss_batch_s / flat_batch_s,
            int8_over_flat_b1=int8_s / flat_s,
            int8_id_mismatches=mismatches(flat, int8, queries_QV),
            int8_bytes_fraction=int8.finder.num_bytes / vectors_NV.nbytes,
            approx_recall100=recall(found_QK, truth_QK),
            faiss_b1_ms=1000 * faiss_s,
            exact_b1_ms=1000 * flat_s,
            int8_b1_ms=1000 * int8_s,
            approx_b1_ms=1000 * ivfpq_s,
        )


def opened(directory: Path, vectors_NV: Floats, width: int, kind: Kind) -> Index:
    """Make and open an index of a kind without a search effort."""
    write_index(directory, vectors_NV, width, kind)
    return open_index(directory, vectors_NV, width, IndexInfo(kind=kind))


def take_turns(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Median seconds of each call. The calls take turns."""
    seconds = np.empty((ROUNDS, len(calls)))
    for round_seconds in seconds:
        for place, call in enumerate(calls):
            started = time.perf_counter()
            call()
            round_seconds[place] = time.perf_counter() - started
    medians: list[float] = np.median(seconds, 0).tolist()
    return medians


def mismatches(expected: Index, index: Index, queries_QV: Floats) -> int:
    """How many of 10,000 queries get other rows or another order. They are variations of the given queries."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(0, NUM_COMPARED, BATCH):
        varied_QV = queries_QV[rng.integers(0, len(queries_QV), BATCH)]
        varied_QV = varied_QV * rng.normal(1, 0.2, varied_QV.shape).astype(np.float32)
        wrong += int((expected.search(varied_QV, RESULTS)[0] != index.search(varied_QV, RESULTS)[0]).any(1).sum())
    return wrong


def synthetic() -> tuple[Floats, int, Floats]:
    """Vectors around cluster centres, log popularity that is low for most items, and queries near the centres."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((NUM_CLUSTERS, WIDTH)) / WIDTH**0.5
    embedding_ND = centres[rng.integers(0, NUM_CLUSTERS, NUM_ITEMS)] + 0.7 * rng.standard_normal((NUM_ITEMS, WIDTH)) / WIDTH**0.5
    popularity_N1 = np.minimum(rng.exponential(1.3, (NUM_ITEMS, 1)) - 13.7, 0)
    trend_N1 = 0.06 * rng.standard_normal((NUM_ITEMS, 1))
    queries_QD = 3 * (centres[rng.integers(0, NUM_CLUSTERS, 256)] + 0.7 * rng.standard_normal((256, WIDTH)) / WIDTH**0.5)
    weights_QP = rng.normal([0.9, 0.5], 0.05, (256, NUM_POPULARITY))
    vectors_NV = np.concatenate([embedding_ND, popularity_N1, trend_N1], 1).astype(np.float32)
    return vectors_NV, WIDTH, np.concatenate([queries_QD, weights_QP], 1).astype(np.float32)


def of_store(store: Path) -> tuple[Floats, int, Floats]:
    """Vectors of the current release, and queries that its contextualizer computes from made-up histories."""
    path = release_path(store, read_pointer(store).release)
    manifest, info = verify_release(path)
    towers, vectors_NV = load_towers(path, manifest), read_vectors(path, info)
    return vectors_NV, towers.config.model.width, sample_queries(towers, vectors_NV, info.popularity_as_of_ms, 256)


if __name__ == "__main__":
    sys.exit(main())
