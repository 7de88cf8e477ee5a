import asyncio
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.histories.history import KEPT_EVENTS, HistoryUnavailable, StoredEvent, UserHistory
from service.histories.remembered import RememberedHistories, _weigh
from service.histories.sqlite_history import SqliteHistory
from tests.service.conftest import MemoryHistory

ROOM = 10**9


def event(item: str = "shoe", user: str = "ann", **properties: str) -> StoredEvent:
    return StoredEvent(user_id=user, event_type="view", time_ms=1, item_id=item, properties=properties)


class Store(MemoryHistory):
    """Notes what it is asked, and waits or fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[UserHistory | None] = []
        self.gate: asyncio.Event | None = None
        self.error: HistoryUnavailable | None = None

    async def read(self, user_id: str, known: UserHistory | None = None) -> UserHistory:
        self.asked.append(known)
        found = await super().read(user_id)
        if self.gate:
            await self.gate.wait()
        if self.error:
            raise self.error
        return found


def checked(check: Callable[[Store, RememberedHistories, list[str]], Awaitable[None]], max_bytes: int = ROOM) -> None:
    store, rollbacks = Store(), list[str]()
    asyncio.run(asyncio.wait_for(_run(check, store, max_bytes, rollbacks), 20))


async def _run(
    check: Callable[[Store, RememberedHistories, list[str]], Awaitable[None]], store: Store, max_bytes: int, rollbacks: list[str]
) -> None:
    await check(store, RememberedHistories(store, max_bytes, lambda: rollbacks.append("back")), rollbacks)


def test_a_read_tells_the_store_what_the_last_one_brought() -> None:
    async def check(store: Store, histories: RememberedHistories, rollbacks: list[str]) -> None:
        await histories.append([event()])
        first = await histories.read("ann")
        await histories.append([event("hat")])
        second = await histories.read("ann")
        assert store.asked == [None, first]
        assert (await histories.read("ann")) is second
        assert not rollbacks

    checked(check)


def test_what_the_caller_knows_is_handed_back_itself() -> None:
    async def check(_store: Store, histories: RememberedHistories, _rollbacks: list[str]) -> None:
        await histories.append([event()])
        held = await histories.read("ann")
        copy = UserHistory(held.events, held.num_events, held.items, held.epoch, held.tag)
        assert (await histories.read("ann", copy)) is copy
        assert (await histories.read("ann")) is held

    checked(check)


def test_readers_that_wait_share_one_read_that_began_after_they_asked() -> None:
    async def check(store: Store, histories: RememberedHistories, _rollbacks: list[str]) -> None:
        await histories.append([event()])
        store.gate = asyncio.Event()
        first = asyncio.create_task(histories.read("ann"))
        await asyncio.sleep(0)
        await histories.append([event("hat")])  # acknowledged while the first is under way, which does not see it
        waiting = [asyncio.create_task(histories.read("ann")) for _ in range(100)]
        await asyncio.sleep(0)
        store.gate.set()
        assert (await first).seq == 1
        assert {(await task).seq for task in waiting} == {2}
        assert len(store.asked) == 2

    checked(check)


def test_a_reader_that_leaves_does_not_take_the_others_along() -> None:
    async def check(store: Store, histories: RememberedHistories, _rollbacks: list[str]) -> None:
        await histories.append([event()])
        store.gate = asyncio.Event()
        first, second = (asyncio.create_task(histories.read("ann")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        store.gate.set()
        assert (await second).seq == 1
        with pytest.raises(asyncio.CancelledError):
            await first
        assert not histories._turns

    checked(check)


def test_one_failure_answers_all_that_waited_and_none_that_come_later() -> None:
    async def check(store: Store, histories: RememberedHistories, _rollbacks: list[str]) -> None:
        store.error, store.gate = HistoryUnavailable("down", "timeout"), asyncio.Event()
        waiting = [asyncio.create_task(histories.read("ann")) for _ in range(10)]
        await asyncio.sleep(0)
        store.gate.set()
        for task in waiting:
            with pytest.raises(HistoryUnavailable) as failed:
                await task
            assert failed.value.reason == "timeout"
        assert len(store.asked) == 2
        store.error = None
        assert (await histories.read("ann")).seq == 0

    checked(check)


def test_a_history_that_went_back_is_read_anew_and_counted() -> None:
    async def check(store: Store, histories: RememberedHistories, rollbacks: list[str]) -> None:
        await histories.append([event()])
        old = store.users["ann"]
        await histories.append([event("hat")])
        await histories.read("ann")
        store.users["ann"] = old
        assert (await histories.read("ann")) == old
        assert len(rollbacks) == 1
        store.users.clear()
        assert (await histories.read("ann")) == UserHistory()
        assert len(rollbacks) == 2
        assert not histories.num_bytes

    checked(check)


def test_a_restored_history_that_grew_past_the_remembered_one_is_counted_too() -> None:
    async def check(store: Store, histories: RememberedHistories, rollbacks: list[str]) -> None:
        await histories.append([event()])
        old = store.users["ann"]
        await histories.append([event("hat")])
        await histories.read("ann")
        store.users["ann"] = old.extended([event("sock"), event("scarf")], tag="another")
        assert [e.item_id for e in (await histories.read("ann")).events] == ["shoe", "sock", "scarf"]
        assert len(rollbacks) == 1

    checked(check)


def test_late_events_are_no_rollback_even_if_everything_was_read_again() -> None:
    async def check(store: Store, histories: RememberedHistories, rollbacks: list[str]) -> None:
        def at(time_ms: int) -> StoredEvent:
            return msgspec.structs.replace(event(f"item-{time_ms}"), time_ms=time_ms)

        await histories.append([at(t) for t in range(1, KEPT_EVENTS + 1)])
        await histories.read("ann")
        for time_ms in (100, 0, KEPT_EVENTS + 1):
            await histories.append([at(time_ms)])
            store.users["ann"] = msgspec.json.decode(msgspec.json.encode(store.users["ann"]), type=UserHistory)
            assert await histories.read("ann") == store.users["ann"]
        assert not rollbacks
        assert histories.num_bytes == _weigh(store.users["ann"], None)

    checked(check)


def test_a_deleted_user_is_forgotten_and_that_is_no_rollback() -> None:
    async def check(store: Store, histories: RememberedHistories, rollbacks: list[str]) -> None:
        await histories.append([event()])
        await histories.read("ann")
        assert await histories.delete("ann") == 1
        assert (await histories.read("ann")) == UserHistory()
        assert store.asked[-1] is None
        assert not rollbacks
        assert not histories.num_bytes

    checked(check)


def test_the_users_seen_longest_ago_are_forgotten_first() -> None:
    async def check(store: Store, histories: RememberedHistories, _rollbacks: list[str]) -> None:
        for user in ("ann", "bob", "cid", "ann", "dan"):
            await histories.append([event(user=user)] if user not in store.users else [])
            await histories.read(user)
        assert list(histories._held) == ["cid", "ann", "dan"]
        assert histories.num_bytes <= 5500

    checked(check, max_bytes=5500)  # three users of one event, not four


def test_without_room_nothing_is_remembered() -> None:
    async def check(store: Store, histories: RememberedHistories, _rollbacks: list[str]) -> None:
        await histories.append([event()])
        assert (await histories.read("ann")) == (await histories.read("ann"))
        assert store.asked == [None, None]
        assert histories.num_bytes == 0

    checked(check, max_bytes=0)


def test_the_estimate_follows_a_history_as_it_grows() -> None:
    async def check(_store: Store, histories: RememberedHistories, _rollbacks: list[str]) -> None:
        for number in range(600):
            await histories.append([event(f"item-{number}", note="x" * number)])
            grown = await histories.read("ann")
        by_steps = histories.num_bytes
        histories._forget("ann")
        assert histories.num_bytes == 0
        assert (await histories.read("ann")) is grown
        assert histories.num_bytes == by_steps

    checked(check)


def test_the_estimate_is_near_what_python_takes() -> None:
    def histories() -> list[UserHistory]:
        return [
            UserHistory().extended(event(f"{user}-{i}", f"user-{user}", channel=f"web-{i}") for i in range(256))
            for user in range(20)
        ]

    tracemalloc.start()
    kept = histories()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(_weigh(history, None) for history in kept) == pytest.approx(taken, rel=0.4)


class NotedReads(SqliteHistory):
    """A file that notes which users are read from it, and waits with what it read when told to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked: list[str] = []
        self.gate: asyncio.Event | None = None

    async def read(self, user_id: str, known: UserHistory | None = None) -> UserHistory:
        self.asked.append(user_id)
        found = await super().read(user_id, known)
        if self.gate:
            await self.gate.wait()
        return found


def followed(path: Path, check: Callable[[NotedReads, RememberedHistories], Awaitable[None]]) -> None:
    async def run() -> None:
        store = NotedReads(path)
        histories = RememberedHistories(store, ROOM, lambda: None)
        histories.follow(store)
        await check(store, histories)
        await histories.close()

    asyncio.run(asyncio.wait_for(run(), 20))


def test_what_this_process_wrote_is_known_without_a_read(tmp_path: Path) -> None:
    async def check(store: NotedReads, histories: RememberedHistories) -> None:
        await histories.append([event()])
        await histories.read("ann")
        for item in ("hat", "glove", "hat"):
            await histories.append([event(item), event(item, "bob")])
        grown = await histories.read("ann")
        assert store.asked == ["ann"]
        assert grown == await store.read("ann")
        assert await histories.read("ann") is grown
        assert await histories.read("ann", UserHistory(*vars_of(grown))) == grown

    followed(tmp_path / "h.db", check)


def vars_of(history: UserHistory) -> tuple[Any, ...]:
    return history.events, history.num_events, history.items, history.epoch, history.tag


def test_what_anyone_else_wrote_is_read(tmp_path: Path) -> None:
    async def check(store: NotedReads, histories: RememberedHistories) -> None:
        other = SqliteHistory(tmp_path / "h.db")
        await histories.append([event()])
        assert (await histories.read("ann")).seq == 1
        await other.append([event("hat")])
        assert (await histories.read("ann")).seq == 2
        await histories.append([event("glove")])
        await other.delete("ann")
        assert (await histories.read("ann")).seq == 0
        assert store.asked == ["ann"] * 3
        await other.close()

    followed(tmp_path / "h.db", check)


def test_a_user_deleted_during_a_read_is_read_again(tmp_path: Path) -> None:
    async def check(store: NotedReads, histories: RememberedHistories) -> None:
        await histories.append([event()])
        store.gate = asyncio.Event()
        reading = asyncio.create_task(histories.read("ann"))
        while not store.asked:
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)  # it has read, and not yet told
        await histories.delete("ann")
        store.gate.set()
        assert (await reading).seq == 1
        assert (await histories.read("ann")).seq == 0

    followed(tmp_path / "h.db", check)


def test_an_append_whose_caller_left_is_known_too(tmp_path: Path) -> None:
    async def check(store: NotedReads, histories: RememberedHistories) -> None:
        await histories.append([event()])
        await histories.read("ann")
        with store._writer_is_taken:
            appending = asyncio.create_task(histories.append([event("hat")]))
            await asyncio.sleep(0.1)  # its turn has come, and the file is busy
            appending.cancel()
            await asyncio.wait([appending])
        await histories.append([event(user="bob")])
        assert [e.item_id for e in (await histories.read("ann")).events] == ["shoe", "hat"]

    followed(tmp_path / "h.db", check)


def test_a_write_that_failed_leaves_a_doubt_that_a_read_ends(tmp_path: Path) -> None:
    async def check(store: NotedReads, histories: RememberedHistories) -> None:
        await histories.append([event()])
        await histories.read("ann")
        store._writer.execute("PRAGMA query_only = ON")
        with pytest.raises(HistoryUnavailable):
            await histories.append([event("hat")])
        store._writer.execute("PRAGMA query_only = OFF")
        assert (await histories.read("ann")).seq == 1
        assert store.asked == ["ann", "ann"]

    followed(tmp_path / "h.db", check)
