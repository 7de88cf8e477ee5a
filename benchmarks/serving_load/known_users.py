"""Users whom the server knows, while releases are swapped and the server is restarted: how many histories it reads anew.

Both releases are of one bundle. One percent of the items, drawn at random, have another title in the second.
"""

import random
import re
import shutil
import signal
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.serving_load.swaps import swap
from benchmarks.training_rivals.corpus import run_twotower
from loadtests.capacity import Load, quantile
from loadtests.connection import HOST
from loadtests.generator import Closed, Measured, Open, Tell
from service.rollout.loading import WARM_LENGTHS
from twotower.artefacts.release import current_release, release_path, write_pointer
from twotower.artefacts.store import RELEASES

NUM_USERS = 400
CHANGED_SHARE = 0.01
NUM_SWAPS, MOST_S = 100, 200.0
STEADY_S, PART_S, ALL_S = 8.0, 4.0, 10.0
SHARE = 0.3  # of the throughput of one connection
OUTCOME = re.compile(r'twotower_user_cache\{outcome="(\w+)"\} ([\d.e+]+)')

Start = Callable[[], AbstractContextManager[Load]]


class Known(NamedTuple):
    """The figures. Shares are of the users who came after a swap or a restart, or of their events."""

    num_swaps: int
    num_failures: int
    steady_p99_ms: float
    swap_p99_ms: float
    swap_cold_share: float  # whose history was read anew
    swap_part_share: float  # of whose history a part was read anew, because an item in it has another vector
    restart_cold_share: float


def two_versions(bundle: Path, items: Path, title: str, directory: Path) -> tuple[Path, list[str]]:
    """A store with two releases of one bundle, and their ids."""
    table, rng = pq.read_table(items), random.Random(0)
    place = table.column_names.index(title)
    titles = [f"{text} NEW" if rng.random() < CHANGED_SHARE else text for text in table.column(title).to_pylist()]
    files = [table, table.set_column(place, title, pa.array(titles, pa.string()))]
    stores = [directory / "version-0", directory / "version-1"]
    for store, version in zip(stores, files, strict=True):
        file = directory / f"{store.name}.parquet"
        pq.write_table(version, file)
        run_twotower("embed", "--bundle", bundle, "--items", file, "--store", store)
    first, second = (str(current_release(store)) for store in stores)
    shutil.move(release_path(stores[1], second), stores[0] / RELEASES / second)
    return stores[0], [first, second]


def outcomes_of(load: Load) -> dict[str, float]:
    """The counters of the cache of user states."""
    with urllib.request.urlopen(f"http://{HOST}:{load.server.port}/metrics", timeout=10) as reply:
        return {name: float(value) for name, value in OUTCOME.findall(reply.read().decode())}


def measure_known(start: Start, store: Path, releases: list[str]) -> Known:
    """Swap under load, then restart. `start` starts the server with one history store and one file of user states."""
    with start() as load:
        load.run(Tell(num_users=NUM_USERS))
        load.run(Closed(work="regulars", connections=1, seconds=ALL_S))
        steadily = load.run(Closed(work="regulars", connections=1, seconds=PART_S))
        rate = SHARE * len(steadily.answered_ms) / steadily.seconds
        swap_s, stop = list[float](), time.monotonic() + MOST_S
        steady = [load.run(Open(work="regulars", rate=rate, seconds=STEADY_S)) for _ in range(4)]
        before = outcomes_of(load)

        def swap_on() -> None:
            while len(swap_s) < NUM_SWAPS and time.monotonic() < stop:
                swap_s.append(swap(load.server, store, releases[1 - len(swap_s) % 2]))

        swapping = list[Measured]()
        with ThreadPoolExecutor(1) as pool:
            swaps = pool.submit(swap_on)
            while not swaps.done():
                swapping.append(load.run(Open(work="regulars", rate=rate, seconds=PART_S)))
        swaps.result()
        after = outcomes_of(load)
        load.run(Closed(work="regulars", connections=1, seconds=ALL_S))
        load.server.process.send_signal(signal.SIGTERM)
        load.server.process.wait()
    write_pointer(store, releases[0], "benchmark of known users")
    with start() as load:
        load.run(Tell(num_users=NUM_USERS))  # they are known already: their events are duplicates
        load.run(Closed(work="regulars", connections=1, seconds=ALL_S))
        restarted = outcomes_of(load)
    new = {name: after[name] - before[name] for name in after}
    cold = new["misses"] - len(WARM_LENGTHS) * len(swap_s)
    came = cold + new["carried"]
    restart_cold = restarted["misses"] - len(WARM_LENGTHS)
    return Known(
        num_swaps=len(swap_s),
        num_failures=sum(m.num_failed + len(m.refused_ms) for m in (*steady, *swapping)),
        steady_p99_ms=quantile([ms for m in steady for ms in m.answered_ms], 0.99),
        swap_p99_ms=quantile([ms for m in swapping for ms in m.answered_ms], 0.99),
        swap_cold_share=cold / came,
        swap_part_share=new["carried_in_part"] / came,
        restart_cold_share=restart_cold / (restart_cold + restarted["restored"]),
    )
