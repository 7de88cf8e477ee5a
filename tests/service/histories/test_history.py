"""What every history store promises, checked on each; and the window over what it returns."""

import asyncio
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.histories.history import KEPT_EVENT_IDS, KEPT_EVENTS, KEPT_ITEMS, HistoryStore, StoredEvent, UserHistory
from service.histories.redis_history import RedisHistory
from service.histories.sqlite_history import SqliteHistory
from twotower.data.features import DAY_MS

T = TypeVar("T")


class Sync:
    """A store called without await."""

    def __init__(self, runner: asyncio.Runner, store: HistoryStore) -> None:
        self._runner, self.store = runner, store

    def run(self, call: Awaitable[T]) -> T:
        async def wait() -> T:
            return await call

        return self._runner.run(wait())

    def append(self, *events: StoredEvent) -> list[bool]:
        return self.run(self.store.append(events))

    def read(self, user_id: str, known: UserHistory | None = None) -> UserHistory:
        return self.run(self.store.read(user_id, known))

    def delete(self, user_id: str) -> int:
        return self.run(self.store.delete(user_id))


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sync]:
    with asyncio.Runner() as runner:
        if request.param == "sqlite":
            sync = Sync(runner, SqliteHistory(tmp_path / "history.db"))
        else:
            redis = RedisHistory(request.getfixturevalue("redis_url"), timeout_s=5.0, ttl_days=1.0)
            sync = Sync(runner, redis)
            sync.run(redis._redis.flushall())
        yield sync
        sync.run(sync.store.close())


def event(
    item: str | None = "shoe", at_ms: int = 0, user: str = "ann", kind: str = "view", key: str | None = None
) -> StoredEvent:
    return StoredEvent(user_id=user, event_type=kind, time_ms=at_ms, item_id=item, event_id=key)


def test_an_unknown_user_has_an_empty_history(store: Sync) -> None:
    assert store.read("nobody") == UserHistory()


def test_events_come_back_as_stored_in_the_order_of_time_and_of_arrival_at_one_moment(store: Sync) -> None:
    full = StoredEvent(
        user_id="ann",
        event_type="buy",
        time_ms=5,
        item_id="hat",
        event_id="e",
        session_id="s",
        value=1.5,
        properties={"price_paid": 2.25, "channel": "web", "gift": True, "note": None, "n": 3},
        recommendation_id="r",
        position=0,
    )
    late, same = event("sock", at_ms=1), event("cap", at_ms=5)
    search = StoredEvent(user_id="ann", event_type="search", time_ms=6, query='a "hat", "time_ms":1 \u71b1')
    assert store.append(full, late, search, same) == [True] * 4
    read = store.read("ann")
    assert (read.events, read.seq, list(read.items)) == ((late, full, same, search), 4, ["hat", "sock", "cap"])


def test_users_do_not_see_each_others_events(store: Sync) -> None:
    store.append(event("shoe", user="ann"), event("hat", user="bob"), event("sock", user="ann"))
    assert [e.item_id for e in store.read("ann").events] == ["shoe", "sock"]
    assert [e.item_id for e in store.read("bob").events] == ["hat"]


@pytest.mark.parametrize("user", ["a/b", "{x}", "}{", "a:b*?[c]", "ключ", "é", "e\u0301", "🧦", "%41", "A", " "])
def test_any_user_id_is_its_own_user(store: Sync, user: str) -> None:
    store.append(event(user=user, kind=user), event("other", user="A" + user))
    assert [e.user_id for e in store.read(user).events] == [user]
    assert store.delete(user) == 1
    assert store.read("A" + user).num_events == 1


def test_an_event_id_is_stored_once_per_user(store: Sync) -> None:
    assert store.append(event(key="1"), event(key="1"), event(key="1", user="bob")) == [True, False, True]
    assert store.append(event(key="1"), event(key="2")) == [False, True]
    assert store.read("ann").num_events == 2
    assert store.read("ann").items["shoe"].count == 2


def test_events_without_an_event_id_are_all_stored(store: Sync) -> None:
    assert store.append(event(), event()) == [True, True]


def test_an_event_without_an_item_counts_but_has_no_statistics(store: Sync) -> None:
    store.append(event(None, kind="search"))
    assert store.read("ann").num_events == 1
    assert store.read("ann").items == {}


def test_statistics_cover_the_whole_history_with_the_types_it_was_met_through(store: Sync) -> None:
    store.append(event("shoe", 0, kind="view"), event("shoe", 7 * DAY_MS, kind="buy"))
    # After 7 days the first event has lost half its weight by the 7-day half-life, and counts 2^-(7/30), 2^-(7/90) by the others.
    decayed = (1.5, 1 + 2 ** (-7 / 30), 1 + 2 ** (-7 / 90))
    shoe = store.read("ann").items["shoe"]
    assert (shoe.count, shoe.first_ms, shoe.last_ms) == (2, 0, 7 * DAY_MS)
    assert shoe.decayed == pytest.approx(decayed, rel=1e-12)
    assert shoe.event_types == {"view", "buy"}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("abc"), st.integers(10**12, 2 * 10**12), st.sampled_from(["v", "p"])), max_size=20),
        max_size=4,
    )
)
def test_redis_and_sqlite_agree_with_the_definition_bit_by_bit_whatever_was_known(
    redis_url: str, batches: list[list[tuple[str, int, str]]]
) -> None:
    async def check(store: HistoryStore) -> None:
        await store.delete("ann")
        expected, known, all_known = UserHistory(), await store.read("ann"), []
        for batch in batches:
            given_events = [event(item, at_ms, kind=kind) for item, at_ms, kind in batch]
            await store.append(given_events)
            expected = expected.extended(given_events)
            all_known.append(known)
            known = await store.read("ann", known)
        full = await store.read("ann")
        assert (full.events, full.num_events, list(full.items.items())) == (
            expected.events,
            expected.num_events,
            list(expected.items.items()),
        )
        for older in all_known:
            found = await store.read("ann", older)
            assert (found, list(found.items)) == (full, list(full.items))
        await store.close()

    for store in (RedisHistory(redis_url, 5.0, 1.0), SqliteHistory(Path(":memory:"))):
        if isinstance(store, SqliteHistory):
            store._reader.close()
            store._reader = store._writer  # a database in memory belongs to one connection
        asyncio.run(check(store))


def test_what_is_known_and_unchanged_is_handed_back_itself(store: Sync) -> None:
    nothing = store.read("ann")
    assert store.read("ann", nothing) is nothing
    store.append(event(), event("hat"))
    known = store.read("ann", nothing)
    assert known == store.read("ann")
    assert store.read("ann", known) is known


def test_what_was_appended_follows_what_is_known_and_keeps_its_objects(store: Sync) -> None:
    store.append(event("shoe"), event("hat"))
    known = store.read("ann")
    store.append(event("sock"))
    store.append(event("shoe", 5, kind="buy"), event("scarf"))
    found = store.read("ann", known)
    assert found == store.read("ann")
    assert [old is new for old, new in zip(known.events, found.events, strict=False)] == [True, True]
    assert list(found.items) == list(store.read("ann").items) == ["shoe", "hat", "sock", "scarf"]
    assert found.epoch == known.epoch != ""


def test_more_news_than_is_kept_is_read_in_full(store: Sync) -> None:
    store.append(event("first"))
    known = store.read("ann")
    store.append(*(event(f"item-{i}", at_ms=i) for i in range(KEPT_EVENTS)))
    assert store.read("ann", known) == store.read("ann")
    assert store.read("ann", known).num_events == KEPT_EVENTS + 1


def test_a_user_deleted_and_seen_again_has_another_epoch(store: Sync) -> None:
    store.append(event("shoe"), event("hat"))
    known = store.read("ann")
    store.delete("ann")
    assert store.read("ann", known) == UserHistory()
    store.append(event("shoe"), event("hat"), event("hat"))
    found = store.read("ann", known)
    assert found.epoch not in ("", known.epoch)
    assert found == store.read("ann")
    assert found.items["hat"].count == 2


def test_inline_events_that_no_store_holds_are_not_taken_for_stored_ones(store: Sync) -> None:
    store.append(event("shoe"))
    inline = store.read("ann").extended([event("hat")])
    store.append(event("sock"), event("scarf"))
    assert store.read("ann", inline) == store.read("ann")


def test_of_too_many_past_items_the_definition_keeps_those_that_the_stores_keep(store: Sync) -> None:
    store.append(*(event(f"item-{i}", at_ms=10**6 - i) for i in range(KEPT_ITEMS)))
    known = store.read("ann")
    new = [event("old", 1), event("old", 2), event("new", 10**6 + 1), event(f"item-{KEPT_ITEMS - 1}", 10**6 + 2)]
    for one in new:
        store.append(one)
    found, full = store.read("ann", known), store.read("ann")
    assert found == full
    assert list(found.items) == list(full.items)


def test_only_the_last_events_are_kept_but_all_are_counted(store: Sync) -> None:
    store.append(*(event("shoe", at_ms=i) for i in range(KEPT_EVENTS + 10)))
    history = store.read("ann")
    assert [e.time_ms for e in history.events] == list(range(10, KEPT_EVENTS + 10))
    assert history.num_events == KEPT_EVENTS + 10
    assert history.items["shoe"].count == KEPT_EVENTS + 10


def test_of_events_that_arrive_in_any_order_the_latest_by_time_are_kept(store: Sync) -> None:
    for times in (range(KEPT_EVENTS, 2 * KEPT_EVENTS), range(10), range(500, 520), range(KEPT_EVENTS - 5, KEPT_EVENTS)):
        store.append(*(event(f"item-{t}", at_ms=t) for t in times))
    history = store.read("ann")
    expected = sorted([*range(KEPT_EVENTS, 2 * KEPT_EVENTS), *range(500, 520)])[-KEPT_EVENTS:]
    assert [e.time_ms for e in history.events] == expected
    assert history.num_events == KEPT_EVENTS + 35
    assert len(history.items) == KEPT_EVENTS + 10 + 8 + 5
    assert store.read("ann", history) is history  # though the event that arrived last is too old to be kept


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.integers(1, 2 * KEPT_EVENTS), min_size=1, max_size=KEPT_EVENTS), max_size=5), st.booleans())
def test_late_events_around_a_full_history_are_read_alike_by_whoever_knows_whatever(
    redis_url: str, batches: list[list[int]], starts_full: bool
) -> None:
    async def check(store: HistoryStore) -> None:
        await store.delete("ann")
        expected, all_known = UserHistory(), [UserHistory()]
        for times in [[*range(KEPT_EVENTS + 3)], *batches] if starts_full else batches:
            added = [event("abc"[t % 3], t, key=f"{len(all_known)}-{place}") for place, t in enumerate(times)]
            await store.append(added)
            expected = expected.extended(added)
            all_known.append(await store.read("ann", all_known[-1]))
            assert (all_known[-1].events, all_known[-1].items) == (expected.events, expected.items)
        full = await store.read("ann")
        for known in all_known:
            assert await store.read("ann", known) == full
        await store.close()

    for store in (RedisHistory(redis_url, 5.0, 1.0), SqliteHistory(Path(":memory:"))):
        if isinstance(store, SqliteHistory):
            store._reader.close()
            store._reader = store._writer
        asyncio.run(check(store))


def test_idempotency_reaches_back_as_far_as_promised(store: Sync) -> None:
    keys = [str(i) for i in range(KEPT_EVENT_IDS + 1)]
    store.append(*(event(None, key=k) for k in keys))
    assert store.append(event(None, key=keys[1])) == [False]
    assert store.append(event(None, key=keys[0])) == [True]  # forgotten


def test_past_items_are_bounded_and_the_longest_unseen_goes_first(store: Sync) -> None:
    store.append(*(event(f"item-{i}", at_ms=10**6 - i) for i in range(KEPT_ITEMS)))
    store.append(event("new", at_ms=10**6 + 1))
    items = store.read("ann").items
    assert len(items) == KEPT_ITEMS
    assert f"item-{KEPT_ITEMS - 1}" not in items
    assert {"item-0", "new"} <= set(items)


def test_a_deleted_user_is_forgotten_with_event_ids_and_statistics(store: Sync) -> None:
    store.append(event(key="1"), event("hat", user="bob"))
    assert store.delete("ann") == 1
    assert store.read("ann") == UserHistory()
    assert store.append(event(key="1")) == [True]
    assert store.read("bob").num_events == 1


def test_deleting_an_unknown_user_changes_nothing(store: Sync) -> None:
    assert store.delete("nobody") == 0


@pytest.mark.parametrize(("num_events", "first"), [(0, 0), (1, 0), (256, 0), (257, 64), (320, 64), (321, 128)])
def test_the_window_starts_at_the_anchor_of_all_events(num_events: int, first: int) -> None:
    history = UserHistory().extended(event(at_ms=i) for i in range(num_events))
    assert [e.time_ms for e in history.window] == list(range(first, num_events))


def test_the_window_of_a_store_that_lost_events_is_what_is_left_of_it() -> None:
    kept = tuple(event(at_ms=i) for i in range(290, 300))
    assert UserHistory(kept, 300).window == kept
