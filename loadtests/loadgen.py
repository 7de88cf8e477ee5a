"""The Server scenario of MLPerf LoadGen: a third opinion, by a generator and rules that are not ours.

Requests are a Poisson process. 99 % of the queries must be answered within 80 ms, the bound of MLPerf's recommender DLRM-v3, and
LoadGen says whether there were enough of them to be sure. MLPerf itself asks for ten minutes or more; here a run takes as long as
its profile. LoadGen knows times only, so whether an answer is right is noted here.

`python -m loadtests.loadgen`, started by `loadtests.run` with a job on stdin. LoadGen calls back from threads of its own.
"""

import asyncio
import contextlib
import math
import queue
import random
import re
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from loadtests.crowd import Target, ask
from loadtests.outcomes import Outcomes
from loadtests.people import Step
from loadtests.profiles import Profile
from loadtests.traffic import EVENTS, RECOMMEND, Replay, read_histories

DLRM_V3_BOUND_MS = 80
NUM_SAMPLES = 200  # users whose histories are known to the server before the run
SUMMARY = "mlperf_log_summary.txt"
RULES = ("Performance constraints satisfied", "Min duration satisfied", "Min queries satisfied")
PERCENTILES = {"50.00": "p50_ms", "99.00": "p99_ms", "99.90": "p999_ms"}


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    host: str
    port: int
    key: str
    histories: str
    profile: Profile
    capacity_per_s: float
    out: str


class SystemUnderTest:
    """Sends the queries of LoadGen's thread from an event loop in another thread, and tells LoadGen when each is answered."""

    def __init__(self, loadgen: Any, target: Target, samples: Sequence[Step], outcomes: Outcomes) -> None:
        self._loadgen, self._target, self._samples, self._outcomes = loadgen, target, samples, outcomes
        self._idle = queue.SimpleQueue[Any]()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.started = time.perf_counter()

    def __enter__(self) -> "SystemUnderTest":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def issue(self, queries: Sequence[Any]) -> None:
        """Called by LoadGen when queries are due; must return at once."""
        for query in queries:
            self._loop.call_soon_threadsafe(self._begin, query.id, self._samples[query.index], time.perf_counter())

    def flush(self) -> None:
        """Called by LoadGen after the last query: nothing is held back here."""

    def tell(self, steps: Sequence[Step]) -> None:
        """Send steps one after the other before the run. SystemExit when one is not accepted."""

        async def tell_all() -> None:
            connection = self._target.connect()
            for step in steps:
                if fate := await ask(connection, step):
                    raise SystemExit(f"the server did not answer before the run ({fate.name.lower()})")
            connection.close()

        asyncio.run_coroutine_threadsafe(tell_all(), self._loop).result()

    def _begin(self, query_id: int, step: Step, sent: float) -> None:
        task = self._loop.create_task(self._send(query_id, step, sent))
        task.add_done_callback(lambda done: done.result())

    async def _send(self, query_id: int, step: Step, sent: float) -> None:
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = self._target.connect()
        fate = await ask(connection, step)
        self._outcomes.add(sent - self.started, 1000 * (time.perf_counter() - sent), step.path, fate)
        self._idle.put(connection)
        self._loadgen.QuerySamplesComplete([self._loadgen.QuerySampleResponse(query_id, 0, 0)])


def settings_for(loadgen: Any, profile: Profile, capacity_per_s: float) -> Any:
    """LoadGen's settings for a profile of constant load. It asks for as many recommendations as people do; it tells no events."""
    settings = loadgen.TestSettings()
    settings.scenario = loadgen.TestScenario.Server
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.server_target_qps = profile.phases[0].load * capacity_per_s * profile.habits.recommend_share
    settings.server_target_latency_ns = DLRM_V3_BOUND_MS * 1_000_000
    settings.server_target_latency_percentile = 0.99
    settings.min_duration_ms = round(1000 * profile.seconds)
    settings.min_query_count = math.ceil(0.8 * settings.server_target_qps * profile.seconds)  # a Poisson process may send fewer
    settings.min_query_count = max(settings.min_query_count, 1)
    return settings


def figures_of(summary: str) -> dict[str, float]:
    """The figures of LoadGen's summary: percentiles of latency in ms, and what it says, each 1 or 0.

    `broken`: the bound on the latency is broken, or the run was cut short. `unsure`: the run is too short for LoadGen to be sure
    that it was not luck; with no query above the bound it wants 459 queries.
    """
    found = re.findall(r"^(\d+\.\d+) percentile latency \(ns\)\s*: (\d+)", summary, re.MULTILINE)
    told = dict(re.findall(r"^\s*(\w[\w ]*?)\s*: (\w+)$", summary, re.MULTILINE))
    own = {PERCENTILES[share]: int(ns) / 1e6 for share, ns in found if share in PERCENTILES}
    broken = not all(told.get(rule, "").upper() == "YES" for rule in RULES)
    return own | {"broken": float(broken), "unsure": float(told.get("Result is") != "VALID" and not broken)}


def samples_of(histories: Path) -> tuple[list[Step], list[Step]]:
    """Steps that make users known to a server, and one question of each of these users."""
    read, rng, run = read_histories(histories), random.Random(0), uuid.uuid4().hex[:8]
    users = [Replay.start(rng.choice(read), f"{run}-{number}") for number in range(NUM_SAMPLES)]
    told = [Step(EVENTS, user.first_events(), 0.0) for user in users]
    return told, [Step(RECOMMEND, user.question(), 0.0) for user in users]


def main() -> None:
    """Do the job on stdin."""
    import mlperf_loadgen

    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    outcomes = Outcomes(generator="loadgen", profile=job.profile.name, capacity_per_s=job.capacity_per_s)
    outcomes.seconds = job.profile.seconds
    told, samples = samples_of(Path(job.histories))
    with (
        tempfile.TemporaryDirectory(prefix="loadgen-") as directory,
        SystemUnderTest(mlperf_loadgen, Target(job.host, job.port, job.key), samples, outcomes) as system,
        contextlib.chdir(directory),  # where it looks for its own configuration
    ):
        system.tell([*told, *samples])  # each question once, so that the run finds caches full
        log = mlperf_loadgen.LogSettings()
        log.log_output.outdir, log.log_output.copy_summary_to_stdout = directory, False
        log.enable_trace = False
        sut = mlperf_loadgen.ConstructSUT(system.issue, system.flush)
        library = mlperf_loadgen.ConstructQSL(NUM_SAMPLES, NUM_SAMPLES, lambda _: None, lambda _: None)
        system.started = time.perf_counter()
        settings = settings_for(mlperf_loadgen, job.profile, job.capacity_per_s)
        mlperf_loadgen.StartTestWithLogSettings(sut, library, settings, log)
        mlperf_loadgen.DestroyQSL(library)
        mlperf_loadgen.DestroySUT(sut)
        summary = (Path(directory) / SUMMARY).read_text()
    outcomes.own = figures_of(summary)
    outcomes.write(Path(job.out))
    (Path(job.out) / f"{job.profile.name}-loadgen.txt").write_text(summary)


if __name__ == "__main__":
    main()
