"""Row 4: callers leave while Redis is asked; no connection may give the next caller their answer."""

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from service.histories.history import StoredEvent, UserHistory
from service.histories.redis_history import RedisHistory
from tests.service.conftest import Client
from tests.service.faults.proxy import FaultProxy
from tests.service.redis_server import RedisServer

USERS = [f"user-{i}" for i in range(20)]


async def cancel_often(redis: RedisServer, times: int) -> None:
    draw = random.Random(0)
    async with FaultProxy(redis) as proxy:
        store = RedisHistory(proxy.url, 5.0, 1.0)
        for user in USERS:
            await store.append([StoredEvent(user_id=user, event_type="view", time_ms=i, item_id=user) for i in range(3)])
        known: dict[str, UserHistory] = {user: await store.read(user) for user in USERS}
        num_cancelled = 0
        for _ in range(times):
            user = draw.choice(USERS)
            written = StoredEvent(user_id="leaving", event_type="view", time_ms=1)
            calls: list[Callable[[], Any]] = [
                partial(store.read, user),
                partial(store.read, user, known[user]),
                partial(store.append, [written]),
            ]
            leaving = asyncio.create_task(draw.choice(calls)())
            for _ in range(draw.randrange(12)):
                await asyncio.sleep(0)
            await asyncio.sleep(draw.choice([0.0, draw.random() * 0.001]))
            leaving.cancel()
            # Others are under way on the same connections; a mix-up would also raise here.
            others = draw.sample(USERS, 3)
            for other, history in zip(others, await asyncio.gather(*map(store.read, others)), strict=True):
                assert [(e.user_id, e.item_id) for e in history.events] == [(other, other)] * 3
            num_cancelled += (await asyncio.gather(leaving, return_exceptions=True))[0].__class__ is asyncio.CancelledError
        assert times // 4 < num_cancelled
        assert not store._redis.connection_pool._in_use_connections
        assert not store.breaker.is_open
        await store.close()


def test_a_cancelled_call_leaves_no_answer_behind(redis: RedisServer) -> None:
    asyncio.run(asyncio.wait_for(cancel_often(redis, 300), 60))


@pytest.mark.faults
@pytest.mark.timeout(400)
def test_ten_thousand_cancelled_calls_leave_no_answer_behind(redis: RedisServer) -> None:
    asyncio.run(asyncio.wait_for(cancel_often(redis, 10_000), 390))


def test_clients_that_disconnect_do_not_give_others_their_history(connect: Callable[..., Client], redis: RedisServer) -> None:
    store = RedisHistory(redis.url, 5.0, 1.0)
    client = connect(store)

    async def check() -> None:
        draw = random.Random(1)
        for number, user in enumerate(USERS, 1):
            await store.append([StoredEvent(user_id=user, event_type="view", time_ms=1, item_id="item-1")] * number)
        for _ in range(40):
            leaving = asyncio.create_task(
                client.http.post("/v1/recommend", json={"user_id": draw.choice(USERS), "validate_only": True})
            )
            for _ in range(draw.randrange(60)):
                await asyncio.sleep(0)
            leaving.cancel()
            number = draw.randrange(len(USERS))
            answer = await client.http.post("/v1/recommend", json={"user_id": USERS[number], "validate_only": True})
            assert (answer.json()["history_seq"], answer.json()["degraded"]) == (number + 1, [])
            await asyncio.gather(leaving, return_exceptions=True)

    client.run(check())
