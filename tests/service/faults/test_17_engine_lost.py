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
def test_another_process_takes_over(tiny_store: Path, tmp_path: Path) -> None:
    with serving(tiny_store, tmp_path / "h.db", "--workers", "2", code=STRUCK) as server:
        before = set(children(server.process.pid))
        os.kill(min(before), signal.SIGUSR1)
        until(lambda: len(set(children(server.process.pid)) - before) == 1, 5)
        until(lambda: status_of(server.address + "/readyz") == 200, 2)
        assert server.end(signal.SIGTERM) == 0
