"""Row 3: Redis is killed, connections are reset, answers end half-way."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import pytest

from service.histories.history import HistoryUnavailable, StoredEvent, UserHistory
from service.histories.redis_history import RedisHistory
from service.histories.remembered import RememberedHistories
from tests.service.conftest import Client
from tests.service.faults.proxy import FaultProxy
from tests.service.redis_server import RedisServer

T = TypeVar("T")


def event(user: str, number: int) -> StoredEvent:
    return StoredEvent(user_id=user, event_type="view", time_ms=number, item_id=f"{user}-{number}", event_id=str(number))


def check_own(user: str, history: UserHistory, num_events: int) -> None:
    """Nothing but what this user did."""
    assert history.events == tuple(event(user, i) for i in range(num_events))
    assert set(history.items) == {e.item_id for e in history.events}


async def again(call: Callable[[], Awaitable[T]]) -> T:
    """As a client sends it again: a connection cut behind its last answer may only show it when it is used."""
    for _ in range(3):
        with suppress(HistoryUnavailable):
            return await call()
    return await call()


async def cut_everywhere(redis: RedisServer, num_offsets: int | None, num_users: int) -> None:
    async with FaultProxy(redis) as proxy:
        straight = RedisHistory(redis.url, 2.0, 1.0)
        users = [f"user-{i}" for i in range(num_users)]
        for user in users:
            await straight.append([event(user, i) for i in range(3)])
        store = RedisHistory(proxy.url, 2.0, 1.0)
        check_own(users[0], await store.read(users[0]), 3)
        length = proxy.longest
        step = 1 if num_offsets is None else max(1, length // num_offsets)
        failed = 0
        for number, offset in enumerate(range(0, length + 1, step)):
            user, other = users[number % num_users], users[(number + 1) % num_users]
            num_events = (await straight.read(user)).num_events
            proxy.cut_after, proxy.reset = offset, bool(number % 2)
            await store._redis.connection_pool.disconnect()  # offsets count from a connection's first byte
            try:
                check_own(user, await store.read(user), num_events)
            except HistoryUnavailable:
                failed += 1
            sent = event(user, num_events)
            with suppress(HistoryUnavailable):
                assert await store.append([sent]) == [True]
            proxy.cut_after = None
            await again(partial(store.append, [sent]))  # whether it was stored before or not, now it is, once
            check_own(user, await again(partial(store.read, user)), num_events + 1)
            check_own(other, await again(partial(store.read, other)), (await straight.read(other)).num_events)
        assert failed
        await store.close()
        await straight.close()


def test_an_answer_cut_anywhere_is_no_answer_and_a_repeated_append_stores_once(redis: RedisServer) -> None:
    asyncio.run(asyncio.wait_for(cut_everywhere(redis, 60, 7), 60))


@pytest.mark.faults
def test_an_answer_cut_at_every_byte_is_no_answer(redis: RedisServer) -> None:
    asyncio.run(asyncio.wait_for(cut_everywhere(redis, None, 1000), 170))


def test_killed_under_load_it_costs_no_500_and_what_was_acknowledged_was_confirmed(
    connect: Callable[..., Client], redis: RedisServer
) -> None:
    histories = RememberedHistories(RedisHistory(redis.url, 0.5, 1.0), 10**8, lambda: None)
    client = connect(histories)
    statuses: set[int] = set()

    async def visit(user: str) -> None:
        for number in range(12):
            body = {
                "user_id": user,
                "item_id": "item-3",
                "event_type": "view",
                "timestamp": 10**12 + number,
                "event_id": str(number),
            }
            stored = await client.http.post("/v1/events", json={"events": [body]})
            read = await client.http.post("/v1/recommend", json={"user_id": user, "validate_only": True})
            statuses.update((stored.status_code, read.status_code))
            if stored.status_code == 503:
                assert stored.json()["error"]["code"] == "history_unavailable"

    async def kill() -> None:
        await asyncio.sleep(0.05)
        redis.stop()
        await asyncio.sleep(0.05)
        await asyncio.to_thread(redis.start)

    async def both() -> None:
        await asyncio.gather(*(visit(f"user-{i}") for i in range(8)), kill())
        await asyncio.sleep(1.3)  # until the circuit breaker tries again
        for user in (f"user-{i}" for i in range(8)):
            answer = await client.http.post("/v1/recommend", json={"user_id": user, "strict": True})
            assert answer.status_code == 200
            assert {e.user_id for e in (await histories.read(user)).events} <= {user}

    client.run(both())
    assert {200, 503} <= statuses <= {200, 202, 503}
