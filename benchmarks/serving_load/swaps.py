"""A hundred hot swaps under load. The two releases have no item in common, so an answer that mixes them is detected."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.training_rivals.corpus import run_twotower
from loadtests.capacity import Load, quantile
from loadtests.generator import Measured, Open
from loadtests.server_process import Server
from twotower.artefacts.release import current_release, release_path, write_pointer
from twotower.artefacts.store import RELEASES

NUM_SWAPS = 100
MOST_S = 200.0  # at most, for all swaps
STEADY_S, PART_S = 8.0, 4.0
SHARE = 0.3  # of the throughput of one connection: a load far below the server's capacity
FOLLOWS_WITHIN_S, LOOK_S = 20.0, 0.05
SERVER_SETTINGS = {"TWOTOWER_POLL_S": "0.02", "TWOTOWER_KEEP_OLD_S": "0"}  # look often for a new release, and load it every time


class Swapped(NamedTuple):
    """The figures of the swaps."""

    num_swaps: int
    num_failures: int  # requests that were refused, failed, or got a mixed answer
    steady_p99_ms: float
    swap_p99_ms: float
    swap_s: float  # mean time from writing the pointer to the first answer of the new release


def two_releases(bundle: Path, items: Path, directory: Path) -> tuple[Path, list[str]]:
    """A store with two releases, each of every other item, and the ids of both."""
    table, stores = pq.read_table(items), [directory / "even", directory / "odd"]
    for number, store in enumerate(stores):
        half = directory / f"{store.name}.parquet"
        pq.write_table(table.take(pa.array(range(number, len(table), 2))), half)
        run_twotower("embed", "--bundle", bundle, "--items", half, "--store", store)
    first, second = (str(current_release(store)) for store in stores)
    shutil.move(release_path(stores[1], second), stores[0] / RELEASES / second)
    return stores[0], [first, second]


def measure_swaps(server: Server, load: Load, store: Path, releases: list[str]) -> Swapped:
    """Measure without and during swaps. The right answers of each release are recorded while it is not swapped."""
    rate = SHARE * load.probe("inline", 1, 0.0).requests_per_s
    steady: list[Measured] = []
    for release in (*releases, *releases):
        swap(server, store, release)
        steady.append(load.run(Open(work="inline", rate=rate, seconds=STEADY_S)))
    stop, swap_s = time.monotonic() + MOST_S, list[float]()

    def swap_on() -> None:
        while len(swap_s) < NUM_SWAPS and time.monotonic() < stop:
            swap_s.append(swap(server, store, releases[len(swap_s) % 2]))

    swapping: list[Measured] = []
    with ThreadPoolExecutor(1) as pool:
        swaps = pool.submit(swap_on)
        while not swaps.done():
            swapping.append(load.run(Open(work="inline", rate=rate, seconds=PART_S)))
    swaps.result()
    return Swapped(
        num_swaps=len(swap_s),
        num_failures=sum(m.num_failed + m.num_mixed + len(m.refused_ms) for m in (*steady, *swapping)),
        steady_p99_ms=quantile([ms for m in steady for ms in m.answered_ms], 0.99),
        swap_p99_ms=quantile([ms for m in swapping for ms in m.answered_ms], 0.99),
        swap_s=sum(swap_s) / len(swap_s),
    )


def swap(server: Server, store: Path, release: str) -> float:
    """Point the store at a release. Returns the seconds until the server answers from it; SystemExit if it does not."""
    started = time.monotonic()
    write_pointer(store, release, "benchmark of hot swaps")
    while server.release() != release:
        if time.monotonic() > started + FOLLOWS_WITHIN_S:
            raise SystemExit(f"the server does not answer from {release}, the release that the store points at")
        time.sleep(LOOK_S)
    return time.monotonic() - started
