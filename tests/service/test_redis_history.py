import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from service.history import HistoryUnavailable, StoredEvent, UserHistory
from service.redis_history import RedisHistory, _keys

EVENT = StoredEvent(user_id="ann", event_type="view", time_ms=1, item_id="shoe", event_id="1")


def with_redis(url: str, check: Callable[[RedisHistory], Awaitable[None]]) -> None:
    async def run() -> None:
        store = RedisHistory(url, timeout_s=2.0, ttl_days=1.0)
        try:
            await check(store)
        finally:
            await store.close()

    asyncio.run(run())


def test_every_key_of_a_user_expires(redis_url: str) -> None:
    async def check(store: RedisHistory) -> None:
        await store._redis.flushall()
        await store.append([EVENT])
        keys = await store._redis.keys("*")
        assert len(keys) == len(_keys("ann")) == 5
        for key in keys:
            assert 0 < await store._redis.pttl(key) <= 86_400_000

    with_redis(redis_url, check)


def test_all_keys_of_a_user_live_on_one_node_of_a_cluster() -> None:
    tags = {key.partition("{")[2].partition("}")[0] for key in _keys("}a{/b")}
    assert tags == {"%7Da%7B%2Fb"}


def test_an_unreachable_redis_is_unavailable_for_reading_writing_and_deleting(tmp_path: Path) -> None:
    async def check(store: RedisHistory) -> None:
        for call in (store.append([EVENT]), store.read("ann"), store.delete("ann")):
            with pytest.raises(HistoryUnavailable):
                await call

    with_redis(f"unix://{tmp_path / 'nothing'}", check)


def test_a_key_of_another_type_is_unavailable_not_a_crash(redis_url: str) -> None:
    async def check(store: RedisHistory) -> None:
        await store._redis.flushall()
        await store._redis.set(_keys("ann")[1], "garbage")
        with pytest.raises(HistoryUnavailable):
            await store.read("ann")
        with pytest.raises(HistoryUnavailable):
            await store.append([EVENT])

    with_redis(redis_url, check)


def test_a_payload_that_cannot_be_read_is_unavailable(redis_url: str) -> None:
    async def check(store: RedisHistory) -> None:
        await store._redis.flushall()
        await store._redis.rpush(_keys("ann")[1], "{")
        with pytest.raises(HistoryUnavailable):
            await store.read("ann")

    with_redis(redis_url, check)


def test_redis_that_forgot_everything_gives_an_empty_history(redis_url: str) -> None:
    async def check(store: RedisHistory) -> None:
        await store.append([EVENT])
        await store._redis.flushall()
        await store._redis.script_flush()
        assert await store.read("ann") == UserHistory()
        assert await store.append([EVENT]) == [True]  # the script is sent again

    with_redis(redis_url, check)
