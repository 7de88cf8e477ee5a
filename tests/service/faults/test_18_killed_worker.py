"""Row 18: one process is killed, as by the OOM killer: the others serve, and it is replaced."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.service.faults.processes import children, load, serving, status_of, until


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_the_others_serve_and_it_is_replaced(tiny_store: Path, tmp_path: Path, number: int) -> None:
    async def run() -> None:
        with serving(tiny_store, tmp_path / "h.db", "--workers", "2", heartbeat_limit_s=2) as server:
            supervisor = server.process.pid
            async with load(server.address) as clients:
                await asyncio.sleep(0.5)
                before = set(children(supervisor))
                assert len(before) == 2
                os.kill(min(before), number)
                await asyncio.to_thread(until, lambda: min(before) not in children(supervisor), 5)
                clients.seen.clear()  # whoever was connected to it noticed; from here on nobody does
                await asyncio.to_thread(until, lambda: len(children(supervisor)) == 2, 5)
                await asyncio.sleep(1)
            assert set(clients.seen) <= {200, 0}
            assert clients.seen[0] <= 4
            assert clients.seen[200] > 10
            assert max(before) in children(supervisor)
            assert status_of(server.address + "/readyz") == 200

    asyncio.run(run())
