"""Controls the load generator, and searches for the capacity of a server."""

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from loadtests.generator import NUM_QUESTIONS, Closed, Job, Measured, Tell, Work
from loadtests.server_process import GENERATOR_CORES, Server, pinned

LIMIT_MS = 50.0  # capacity is the throughput at which the p99 latency is within this limit
MOST_CONNECTIONS = 128
FIRST_GUESS_PER_S = 100.0
PROBE_S = 4.0
SPARE = 1.5  # prepare so many times as many users as the last probe needed


@dataclass(frozen=True, slots=True)
class Probe:
    """The figures of a closed loop."""

    connections: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float  # infinite if a request was refused or failed
    cpu_ms: float  # of the server, per request
    generator_cpu_ms: float


@dataclass(slots=True)
class Load:
    """A running load generator and the server that it loads."""

    server: Server
    process: subprocess.Popen[bytes]
    num_fresh: int = 0

    def run(self, job: Job) -> Measured:
        """Run a job and return its measurements. SystemExit when the generator fails; it prints the reason to stderr."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(msgspec.json.encode(job) + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the load generator failed; its reason is above")
        measured = msgspec.json.decode(line, type=Measured)
        self.num_fresh = measured.num_fresh
        return measured

    def ensure_fresh(self, num_users: int) -> None:
        """Make sure that there are at least so many users with stored events and without a request yet."""
        if (missing := num_users - self.num_fresh) > 0:
            self.run(Tell(num_users=missing))

    def probe(self, work: Work, connections: int, expected_per_s: float) -> Probe:
        """Run a closed loop, with enough users for `expected_per_s` requests per second."""
        if work != "inline":
            questions = NUM_QUESTIONS if work == "visits" else 1
            self.ensure_fresh(connections + math.ceil(SPARE * PROBE_S * expected_per_s / questions))
        cpu_s = self.server.cpu_s
        measured = self.run(Closed(work=work, connections=connections, seconds=PROBE_S))
        return probe_of(measured, connections, self.server.cpu_s - cpu_s)


@contextmanager
def loading(server: Server, histories: Path) -> Iterator[Load]:
    """Start a load generator for a server, on its own core."""
    command = [sys.executable, "-m", "loadtests.generator", str(server.port), str(histories)]
    with pinned(GENERATOR_CORES):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        try:
            yield Load(server, process)
        finally:
            process.kill()


def probe_of(measured: Measured, connections: int, cpu_s: float) -> Probe:
    """The figures of a closed loop. ValueError when it ended without an answer."""
    if measured.seconds <= 0 or not measured.answered_ms:
        raise ValueError(f"no answer among {measured.num_asked} requests of {connections} connections")
    whole = not measured.num_failed and not measured.refused_ms
    return Probe(
        connections=connections,
        requests_per_s=len(measured.answered_ms) / measured.seconds,
        p50_ms=quantile(measured.answered_ms, 0.50),
        p99_ms=quantile(measured.answered_ms, 0.99) if whole else math.inf,
        cpu_ms=1000 * cpu_s / measured.num_asked,
        generator_cpu_ms=1000 * measured.cpu_s / measured.num_asked,
    )


def quantile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed."""
    return float(np.quantile(values, share, method="inverted_cdf"))


def capacity(probe: Callable[[int, float], Probe], limit_ms: float = LIMIT_MS, most: int = MOST_CONNECTIONS) -> Probe:
    """The fastest probe whose p99 is within the limit, or the probe of one connection if even that is not.

    Doubles the connections while the p99 is within the limit, then bisects until the gap is a quarter. The arguments of `probe`
    are the number of connections and the expected requests per second.
    """
    best = probe(1, FIRST_GUESS_PER_S)
    keeps, breaks = 1, most + 1
    while best.p99_ms <= limit_ms and breaks - keeps > max(1, keeps // 4):
        number = min(2 * keeps, (keeps + breaks) // 2)
        tried = probe(number, best.requests_per_s)
        if tried.p99_ms > limit_ms:
            breaks = number
        else:
            keeps, best = number, max(best, tried, key=lambda p: p.requests_per_s)
    return best
