"""Runs a server as a process on one core, and measures its CPU time."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from loadtests.connection import HOST
from loadtests.generator import Answer
from loadtests.traffic import RECOMMEND

CORES = sorted(os.sched_getaffinity(0))
SERVER_CORES, GENERATOR_CORES = CORES[:1], CORES[-1:]  # every server gets one core, the load generator another
READY_TIMEOUT_S, STOP_TIMEOUT_S = 120.0, 20.0
NOBODY = {"user_id": "nobody", "num_results": 1, "timestamp": 1_500_000_000_000}
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def cpu_s(self) -> float:
        """CPU time of the process and its children so far."""
        return sum(map(_ticks, _family(self.process.pid))) / _TICKS_PER_S

    def release(self) -> str:
        """The id of the release that is served. URLError when the server does not answer."""
        body = msgspec.json.encode(NOBODY)
        request = urllib.request.Request(f"http://{HOST}:{self.port}{RECOMMEND}", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as reply:
            return msgspec.json.decode(reply.read(), type=Answer).release


@contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """Processes that are started inside run on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def running(
    command: Callable[[int], Sequence[str | Path]],
    log: Path,
    cores: Sequence[int] = SERVER_CORES,
    environment: Mapping[str, str] = {},  # safe as a default, because a Mapping is read-only
) -> Iterator[Server]:
    """Start a server on a free port and wait for its first answer. SystemExit with the server's log if there is none."""
    port = free_port()
    with log.open("wb") as output, pinned(cores):
        settings = os.environ | threads(max(1, len(cores) - 1)) | dict(environment)
        process = subprocess.Popen(command(port), stdout=output, stderr=output, env=settings, start_new_session=True)
    server = Server(process, port)
    try:
        _wait(server, log)
        yield server
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # LitServe leaves its workers behind
        process.wait()


def threads(number: int) -> dict[str, str]:
    """Environment variables that make a process compute on so many threads."""
    return {name: str(number) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TWOTOWER_TORCH_THREADS")}


def _wait(server: Server, log: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while server.process.poll() is None and time.monotonic() < deadline:
        try:
            server.release()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"{server.process.args!r} did not answer:\n{log.read_text()}")


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _family(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from _family(int(child))


def _ticks(pid: int) -> int:
    """utime + stime of proc(5). The name in parentheses is cut off, because it may contain spaces."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
