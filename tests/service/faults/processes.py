"""Real server processes, what the system says of them, and requests that never stop."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx

SERVE = "import sys; from service.command import main; sys.exit(main(sys.argv[1:]))"


@dataclass(frozen=True)
class Running:
    """A server and where it answers."""

    process: "subprocess.Popen[str]"
    address: str

    def end(self, number: int) -> int:
        """Send a signal; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=20)


@contextmanager
def serving(
    store: Path, history: Path | str, *arguments: str, code: str = SERVE, stderr: IO[Any] | None = None, **settings: Any
) -> Iterator[Running]:
    """A server that is ready, all its processes; it is killed in the end. `settings` are TWOTOWER_ variables."""
    url = history if isinstance(history, str) else f"sqlite:///{history}"
    command = [sys.executable, "-c", code, "--store", str(store), "--history", url, *arguments]
    if "--port" not in arguments:
        command += ["--port", "0"]
    environment = os.environ | {"TWOTOWER_TORCH_THREADS": "1"} | {f"TWOTOWER_{k}".upper(): str(v) for k, v in settings.items()}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment)
    try:
        assert process.stdout is not None
        num_workers = int(arguments[arguments.index("--workers") + 1]) if "--workers" in arguments else 1
        lines = [process.stdout.readline() for _ in range(num_workers)]
        yield Running(process, lines[-1].split()[6])
    finally:
        if process.poll() is None:
            for pid in (*children(process.pid), process.pid):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def children(pid: int) -> list[int]:
    """Processes that it has started and that are there."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until(happens: Callable[[], bool], within_s: float) -> float:
    """Wait for it; how long it took."""
    started = time.monotonic()
    while not happens():
        assert time.monotonic() - started < within_s, f"it did not happen within {within_s} s"
        time.sleep(0.02)
    return time.monotonic() - started


def status_of(url: str) -> int:
    """Of an answer; 0 where nobody answers."""
    try:
        return httpx.get(url, timeout=2.0, verify=False).status_code  # reading certificates takes longer than the request
    except httpx.TransportError:
        return 0


@dataclass
class Load:
    """Answers counted by status; 0 for a connection that broke."""

    seen: Counter[int]
    slowest_s: float = 0.0


@asynccontextmanager
async def load(
    address: str, num_clients: int = 4, timeout_ms: int = 5000, transport: httpx.AsyncBaseTransport | None = None
) -> AsyncIterator[Load]:
    """Clients that keep their connections and ask one request after the other for as long as this lasts."""
    result = Load(Counter())
    stop = asyncio.Event()

    async def ask(number: int) -> None:
        while not stop.is_set():
            started = time.monotonic()
            try:
                answer = await http.post("/v1/recommend", json={"user_id": f"user-{number}", "timeout_ms": timeout_ms})
                result.seen[answer.status_code] += 1
            except httpx.TransportError:
                result.seen[0] += 1
            result.slowest_s = max(result.slowest_s, time.monotonic() - started)
            await asyncio.sleep(0.05)

    async with httpx.AsyncClient(base_url=address, timeout=30.0, transport=transport) as http, asyncio.TaskGroup() as tasks:
        for number in range(num_clients):
            tasks.create_task(ask(number))
        try:
            yield result
        finally:
            stop.set()
