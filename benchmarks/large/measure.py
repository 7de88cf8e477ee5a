"""Ten million items end to end: a night's build, a night that changed little, the swap of a server, and one query's search.

What is measured here grows with the number of items alone, so ten times as many take ten times as much. `--large` prints what a
hundred million would take, and what they would need.

N: items, V: vector width, K: results
"""

import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

import faiss as faiss_module
import numpy as np

from benchmarks.large.made_up import write_items
from benchmarks.report import Row
from benchmarks.search import RESULTS, opened, take_turns
from embedder_cache.build import sample_queries
from embedder_cache.checks.index_choice import make_index, recall
from loadtests.server_process import CORES, Server, running
from twotower.artefacts.bundle import Bundle
from twotower.artefacts.release import VECTORS, current_release, read_pointer, release_path
from twotower.data.features import Floats
from twotower.index.files import open_index
from twotower.progress import step
from twotower.terminal import console

faiss: Any = faiss_module

NUM_ITEMS, CHANGED = 10_000_000, 0.01
TIMES = 10  # how many times as many items are extrapolated to
GIB = 2**30
LOOK_S, SWAP_LIMIT_S = 0.2, 600.0
NUM_QUERIES = 64
_MEMORY = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


class Build(Protocol):
    """One run of the nightly job in a process of its own."""

    @property
    def seconds(self) -> float:
        """Time without the start of Python."""

    @property
    def peak_bytes(self) -> int:
        """Peak of the memory above the interpreter with everything imported."""


class Swap(NamedTuple):
    """The swap of a server to the release of the next night."""

    seconds: float  # from the moment the pointer moved
    ratio: float  # the most memory that the process took during it, over what it took before
    start_s: float  # of the server with the first release
    before_bytes: int


class Search(NamedTuple):
    """One query at a time on one thread, median milliseconds."""

    flat_ms: float  # FAISS' flat index
    exact_ms: float
    ivfpq_ms: float
    ivfpq_build_s: float
    ivfpq_recall: float


def measure_large(bundle: Bundle, build: Callable[[Path, Path, Path], Build], where: Path) -> list[Row]:
    """The rows of ten million items. `build` takes bundle, items and store."""
    with TemporaryDirectory(dir=where, prefix="large-") as name:
        directory = Path(name)
        store, files = directory / "store", [directory / f"items{night}.parquet" for night in range(2)]
        with step(f"make up {NUM_ITEMS:,} items"):
            for file, changed in zip(files, (0.0, CHANGED), strict=True):
                write_items(file, NUM_ITEMS, changed)
        full = build(bundle.path, files[0], store)
        first = release_path(store, read_pointer(store).release)
        size = sum(file.stat().st_size for file in first.iterdir())
        with step("search"):
            search = measure_search(bundle, np.load(first / VECTORS, mmap_mode="c"), directory)
        with step("serve, and swap to the next night's release"):
            night, swap = measure_swap(store, directory, lambda: build(bundle.path, files[1], store))
    say_extrapolation(full, size, swap)
    return [
        Row(metric="large_build_s", value=full.seconds, unit="s", better="lower", must=360.0, goal=180.0),
        Row(metric="large_build_gib", value=full.peak_bytes / GIB, unit="GiB", better="lower", must=8.0, goal=4.0),
        Row(
            metric="large_exact_over_faiss",
            value=search.exact_ms / search.flat_ms,
            unit="of FAISS flat's time",
            better="lower",
            must=0.5,
            goal=0.2,
        ),
        Row(metric="large_faiss_flat_ms", value=search.flat_ms, unit="ms", better="lower"),
        Row(metric="large_exact_ms", value=search.exact_ms, unit="ms", better="lower"),
        Row(metric="large_ivfpq_ms", value=search.ivfpq_ms, unit="ms", better="lower"),
        Row(metric="large_ivfpq_recall100", value=search.ivfpq_recall, unit="", better="higher"),
        Row(metric="large_ivfpq_build_s", value=search.ivfpq_build_s, unit="s", better="lower"),
        Row(metric="large_release_gib", value=size / GIB, unit="GiB", better="lower"),
        Row(metric="large_night_s", value=night.seconds, unit="s, 1 % changed", better="lower"),
        Row(metric="large_start_s", value=swap.start_s, unit="s, server", better="lower"),
        Row(metric="large_server_gib", value=swap.before_bytes / GIB, unit="GiB", better="lower"),
        Row(metric="large_swap_s", value=swap.seconds, unit="s", better="lower"),
        Row(metric="large_swap_memory", value=swap.ratio, unit="x before", better="lower", must=1.15),
    ]


def measure_search(bundle: Bundle, vectors_NV: Floats, directory: Path) -> Search:
    """Exact search by int8 codes and the approximate index, beside FAISS' flat search over the same rows in memory."""
    faiss.omp_set_num_threads(1)
    width, rows_NV = bundle.towers.config.model.width, np.ascontiguousarray(vectors_NV)
    queries_QV = sample_queries(bundle.towers, rows_NV, None, NUM_QUERIES)
    alone, half = queries_QV[:1], NUM_QUERIES // 2
    exact = opened(directory, rows_NV, width, "int8")
    faiss.omp_set_num_threads(len(CORES))
    started = time.perf_counter()
    made = make_index(directory, rows_NV, width, "ivfpq", queries_QV[:half])
    build_s = time.perf_counter() - started
    faiss.omp_set_num_threads(1)
    ivfpq = open_index(directory, rows_NV, width, made.info)
    flat_s, exact_s, ivfpq_s = take_turns(
        [
            lambda: faiss.knn(alone, rows_NV, RESULTS, metric=faiss.METRIC_INNER_PRODUCT),
            lambda: exact.search(alone, RESULTS),
            lambda: ivfpq.search(alone, RESULTS),
        ]
    )
    found_QK, truth_QK = (index.search(queries_QV[half:], RESULTS)[0] for index in (ivfpq, exact))
    return Search(1000 * flat_s, 1000 * exact_s, 1000 * ivfpq_s, build_s, recall(found_QK, truth_QK))


def measure_swap(store: Path, directory: Path, next_night: Callable[[], Build]) -> tuple[Build, Swap]:
    """Serve the store's release, build the next one beside it, and wait until the server answers from it."""

    def command(port: int) -> list[str | Path]:
        history = f"sqlite:///{directory / 'history.db'}"
        return [sys.executable, "-m", "twotower.cli", "serve", "--store", store, "--history", history, "--port", str(port)]

    begun = time.monotonic()
    with running(command, directory / "server.log", CORES, {"TWOTOWER_POLL_S": "0.2", "TWOTOWER_KEEP_OLD_S": "0"}) as server:
        start_s, before = time.monotonic() - begun, memory_of(server)
        with ThreadPoolExecutor(1) as pool:
            building, most, swapped_at = pool.submit(next_night), before, 0.0
            first, deadline = server.release(), time.monotonic() + SWAP_LIMIT_S
            while (served := server.release()) == first and time.monotonic() < deadline:
                most = max(most, memory_of(server))
                if not swapped_at and current_release(store) != first:
                    swapped_at = time.monotonic()
                time.sleep(LOOK_S)
            if served == first:
                raise SystemExit(f"the server still answers from {first}:\n{(directory / 'server.log').read_text()[-2000:]}")
            return building.result(), Swap(time.monotonic() - swapped_at, most / before, start_s, before)


def memory_of(server: Server) -> int:
    """Memory of the server's process in bytes. A page that is mapped twice counts once."""
    found = _MEMORY.search(Path(f"/proc/{server.process.pid}/smaps_rollup").read_text())
    assert found is not None, "the process runs"
    return int(found[1]) * 1024


def say_extrapolation(full: Build, size: int, swap: Swap) -> None:
    """Print what ten times as many items would take, and what they would need."""
    lines = [
        f"{TIMES * NUM_ITEMS:,} items, {TIMES} times as many, would take about {TIMES * full.seconds / 60:,.0f} minutes a build,",
        f"{TIMES * full.peak_bytes / GIB:,.0f} GiB for the job, {TIMES * size / GIB:,.0f} GiB a release on disk,",
        f"and {TIMES * swap.before_bytes / GIB:,.0f} GiB a server. So: nodes with `embed --engine ray`, and `--index milvus`.",
    ]
    console().print("\n".join(lines))
