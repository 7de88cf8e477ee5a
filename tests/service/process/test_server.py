"""A process that has just started knows how fast it is, so that it refuses nobody whom it has room for."""

import asyncio
import random
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from loadtests.connection import Connection
from tests.service.faults.live_server import live

RATE, NUM_REQUESTS, NUM_EVENTS = 40.0, 160, 60


@pytest.mark.parametrize("seed", [0, 1])
def test_an_idle_server_refuses_nobody_from_its_first_request_on(tiny_store: Path, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    events = [{"event_type": "view", "item_id": f"item-{n}", "timestamp": 1_700_000_000_000 + n} for n in range(NUM_EVENTS)]
    body = msgspec.json.encode({"events": events, "num_results": 10})
    statuses: Counter[int] = Counter()

    async def ask(port: int, after_s: float) -> None:
        await asyncio.sleep(after_s)
        connection = Connection(port)
        reply = await connection.post("/v1/recommend", body)
        connection.close()
        statuses[reply.status] += 1

    async def run(port: int) -> None:
        after_s, asking = 0.0, []
        for _ in range(NUM_REQUESTS):
            asking.append(ask(port, after_s))
            after_s += draw.expovariate(RATE)
        await asyncio.gather(*asking)

    with live(tiny_store, tmp_path) as server:
        asyncio.run(run(server.port))
    assert statuses == {200: NUM_REQUESTS}
