"""Row 17: the engine's thread ends or stands still under load: everyone is answered in time, and the process makes room."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.service.faults.processes import SERVE, children, load, serving, status_of, until

# On SIGUSR1 the engine's thread ends at its next line of Python; on SIGUSR2 it stands still there.
STRUCK = f"""
import ctypes, signal, threading, time
class Stand(BaseException):
    def __init__(self):
        time.sleep(3600)
def strike(what):
    (engine,) = [thread for thread in threading.enumerate() if thread.name == "engine"]
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(engine.ident), ctypes.py_object(what))
signal.signal(signal.SIGUSR1, lambda *_: strike(SystemExit))
signal.signal(signal.SIGUSR2, lambda *_: strike(Stand))
{SERVE}
"""


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2], ids=["ends", "stands still"])
def test_everyone_is_answered_by_the_deadline_and_the_process_ends_badly(tiny_store: Path, tmp_path: Path, number: int) -> None:
    async def run() -> None:
        with serving(tiny_store, tmp_path / "h.db", code=STRUCK, heartbeat_limit_s=1) as server:
            async with load(server.address, timeout_ms=4000) as clients:
                await asyncio.to_thread(until, lambda: clients.seen[200] > 10, 10)
                server.process.send_signal(number)
                ready = server.address + "/readyz"
                await asyncio.to_thread(until, lambda: status_of(ready) != 200, 2.0)
                assert await asyncio.to_thread(server.process.wait, 6) == 1
            assert clients.seen[503] > 0
            assert set(clients.seen) <= {200, 503, 0}  # 0: nobody listens any more
            assert clients.slowest_s < 4.5

    asyncio.run(run())


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_so_it_is_when_the_engine_is_a_process(tiny_store: Path, tmp_path: Path, number: int) -> None:
    async def run() -> None:
        with serving(tiny_store, tmp_path / "h.db", "--engine", "process", heartbeat_limit_s=1) as server:
            (pid,) = children(server.process.pid)
            async with load(server.address, timeout_ms=4000) as clients:
                await asyncio.sleep(0.5)
                os.kill(pid, number)
                await asyncio.to_thread(until, lambda: status_of(server.address + "/readyz") != 200, 2.0)
                assert await asyncio.to_thread(server.process.wait, 6) == 1
            assert not Path(f"/proc/{pid}").exists()
            assert clients.seen[200] > 10
            assert clients.seen[503] > 0
            assert set(clients.seen) <= {200, 503, 0}
            assert clients.slowest_s < 4.5

    asyncio.run(run())


@pytest.mark.faults
@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 0)])
def test_the_engines_process_does_not_outlive_its_server(tiny_store: Path, tmp_path: Path, number: int, status: int) -> None:
    with serving(tiny_store, tmp_path / "h.db", "--engine", "process") as server:
        (pid,) = children(server.process.pid)
        if number == signal.SIGTERM:  # sent to all processes of a service
            os.kill(pid, number)
            assert status_of(server.address + "/readyz") == 200
        assert server.end(number) == status
        until(lambda: not is_running(pid), 2)


def is_running(pid: int) -> bool:
    """Whether it is there, and not only waits to be buried by whoever took it over."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.faults
def test_another_process_takes_over(tiny_store: Path, tmp_path: Path) -> None:
    with serving(tiny_store, tmp_path / "h.db", "--workers", "2", code=STRUCK) as server:
        before = set(children(server.process.pid))
        os.kill(min(before), signal.SIGUSR1)
        until(lambda: len(set(children(server.process.pid)) - before) == 1, 5)
        until(lambda: status_of(server.address + "/readyz") == 200, 2)
        assert server.end(signal.SIGTERM) == 0
