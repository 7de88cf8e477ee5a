"""Row 5: Redis comes back with less than it had."""

import asyncio
import shutil
from collections.abc import Callable

from service.histories.history import StoredEvent, UserHistory
from service.histories.redis_history import RedisHistory
from service.histories.remembered import RememberedHistories
from tests.service.conftest import Client
from tests.service.redis_server import RedisServer


def event(number: int) -> StoredEvent:
    return StoredEvent(user_id="ann", event_type="view", time_ms=10**12 + number, item_id=f"item-{number}", event_id=str(number))


def restore(redis: RedisServer) -> None:
    """Back to what was saved."""
    shutil.copy(redis.dump, redis.directory / "saved")
    redis.stop()
    shutil.move(redis.directory / "saved", redis.dump)
    redis.start()


def test_a_server_answers_from_what_redis_has_and_not_from_what_it_remembers(
    connect: Callable[..., Client], redis: RedisServer
) -> None:
    rollbacks: list[str] = []
    store = RedisHistory(redis.url, 2.0, 1.0)
    client = connect(RememberedHistories(store, 10**8, lambda: rollbacks.append("back")))
    moment = {"user_id": "ann", "timestamp": "2025-05-01T12:00:00Z"}
    client.run(client.history.append([event(i) for i in range(1, 4)]))
    three = client.recommend(**moment)
    redis.ask("SAVE")
    client.run(client.history.append([event(4), event(5)]))
    assert client.recommend(**moment)["history_seq"] == 5

    restore(redis)
    client.run(asyncio.sleep(0.05))  # a loop that runs, as a server's does, notices that connections ended
    found = client.recommend(**moment)
    assert (found["history_seq"], [i["item_id"] for i in found["items"]]) == (3, [i["item_id"] for i in three["items"]])
    assert len(rollbacks) == 1

    redis.ask("FLUSHALL")
    lost = client.recommend(**moment)
    assert (lost["history_seq"], lost["events_used"], lost["degraded"]) == (0, 0, [])
    assert len(rollbacks) == 2

    assert client.run(client.history.append([event(1)])) == [True]
    assert client.recommend(**moment)["history_seq"] == 1


def test_a_restored_history_that_grew_again_is_not_mixed_with_the_one_remembered(redis: RedisServer) -> None:
    async def check() -> None:
        rollbacks: list[str] = []
        store = RedisHistory(redis.url, 2.0, 1.0)
        remembered = RememberedHistories(store, 10**8, lambda: rollbacks.append("back"))
        await store.append([event(1)])
        redis.ask("SAVE")
        await store.append([event(2), event(3)])
        assert (await remembered.read("ann")).seq == 3
        await asyncio.to_thread(restore, redis)
        await store.append([event(4), event(5), event(3), event(6)])  # of the same epoch, and item-3 third as before
        found = await remembered.read("ann")
        assert [e.item_id for e in found.events] == ["item-1", "item-3", "item-4", "item-5", "item-6"], "in the order of time"
        assert found == await store.read("ann") == await other_server(redis)
        assert len(rollbacks) == 1
        await store.close()

    asyncio.run(check())


async def other_server(redis: RedisServer) -> UserHistory:
    store = RedisHistory(redis.url, 2.0, 1.0)
    history = await store.read("ann")
    await store.close()
    return history
