"""Row 37: the server is killed while events of several clients share a commit: none that was acknowledged is lost."""

import asyncio
import os
import signal
from pathlib import Path

import httpx

from service.histories.sqlite_history import SqliteHistory
from tests.service.faults.processes import serving

NUM_CLIENTS, ROUNDS = 12, 3


def test_what_was_acknowledged_is_there_after_the_kill(tiny_store: Path, tmp_path: Path) -> None:
    acknowledged: dict[str, list[str]] = {f"user-{number}": [] for number in range(NUM_CLIENTS)}

    async def tell(address: str, user: str) -> None:
        async with httpx.AsyncClient(base_url=address, timeout=30.0) as http:
            while True:
                name = f"{len(acknowledged[user])}"
                event = {"user_id": user, "event_id": name, "event_type": "view", "item_id": "i1", "timestamp": 1_700_000_000_000}
                try:
                    answer = await http.post("/v1/events", json={"events": [event]})
                except httpx.TransportError:
                    return
                assert answer.status_code == 202
                acknowledged[user].append(name)

    async def run() -> None:
        for number in range(ROUNDS):
            with serving(tiny_store, tmp_path / "h.db") as server:
                clients = [asyncio.create_task(tell(server.address, user)) for user in acknowledged]
                await asyncio.sleep(0.5 + 0.13 * number)
                os.kill(server.process.pid, signal.SIGKILL)
                await asyncio.gather(*clients)
        store = SqliteHistory(tmp_path / "h.db")
        for user, names in acknowledged.items():
            stored = [event.event_id for event in (await store.read(user)).events]
            assert set(names[-200:]) <= set(stored), "a store keeps the last 256 events of a user"
        await store.close()

    asyncio.run(run())
    assert min(map(len, acknowledged.values())) > ROUNDS
