"""A history as it was before a moment equals the one that a store of that moment would have had, or says that it does not."""

import math
from random import Random

import pytest

from service.histories.as_of import as_of
from service.histories.history import KEPT_EVENTS, PastItem, StoredEvent, UserHistory
from twotower.data.features import DAY_MS

HOUR_MS = 3_600_000


def event(item: str | None, at_ms: int, kind: str = "view") -> StoredEvent:
    return StoredEvent(user_id="ann", event_type=kind, time_ms=at_ms, item_id=item)


def log(num_events: int, num_items: int, seed: int = 0) -> list[StoredEvent]:
    """Events of an hour each, two at a moment, of items of which some are much more frequent."""
    random = Random(seed)
    return [event(f"item-{int(random.paretovariate(0.7)) % num_items}", t // 2 * HOUR_MS) for t in range(num_events)]


def close(found: PastItem, expected: PastItem) -> bool:
    same = (found.count, found.first_ms, found.last_ms) == (expected.count, expected.first_ms, expected.last_ms)
    return same and all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(found.decayed, expected.decayed, strict=True))


def test_events_of_the_moment_itself_are_not_known() -> None:
    history = UserHistory().extended([event("shoe", 1), event("hat", 5, "buy"), event("sock", 5), event("shoe", 9, "buy")])
    then = as_of(history, 5)
    assert then.is_exact
    assert then.history == UserHistory().extended([event("shoe", 1)])
    assert as_of(history, 1).history == UserHistory()
    assert as_of(history, 10).history is history


@pytest.mark.parametrize("num_events", [0, 1, 40, KEPT_EVENTS])
def test_while_all_events_are_kept_every_moment_is_exact(num_events: int) -> None:
    events = log(num_events, 20)
    history = UserHistory().extended(events)
    for moment_ms in range(0, (num_events // 2 + 2) * HOUR_MS, 7 * HOUR_MS):
        then = as_of(history, moment_ms)
        assert then.is_exact
        expected = UserHistory().extended(e for e in events if e.time_ms < moment_ms)
        assert (then.history.events, then.history.num_events) == (expected.events, expected.num_events)
        assert then.history.items.keys() == expected.items.keys()


@pytest.mark.parametrize("seed", range(5))
def test_of_a_longer_history_what_is_called_exact_is_and_counts_always_are(seed: int) -> None:
    events = log(KEPT_EVENTS + 150, 60, seed)
    history, num_exact = UserHistory().extended(events), 0
    for num_then in range(KEPT_EVENTS + 150, 152, -2):
        moment_ms = num_then // 2 * HOUR_MS
        then, expected = as_of(history, moment_ms), UserHistory().extended(events[:num_then])
        assert (then.history.num_events, then.history.items.keys()) == (num_then, expected.items.keys())
        assert all(then.history.items[i].count == expected.items[i].count for i in expected.items)
        if then.is_exact:
            assert then.history.window == expected.window
            assert all(close(then.history.items[i], expected.items[i]) for i in expected.items)
            num_exact += 1
    assert num_exact > 10


def test_what_is_no_longer_kept_is_bounded_by_what_is() -> None:
    """Three events of a hat long ago, of which one is known by its time, and one now; then many others."""
    hats = [event("hat", t * DAY_MS) for t in (0, 10, 20)]
    others = [event(f"item-{t}", t * DAY_MS) for t in range(100, 100 + KEPT_EVENTS - 1)]
    history = UserHistory().extended([*hats, *others, event("hat", 1000 * DAY_MS)])
    then = as_of(history, 1000 * DAY_MS)
    assert not then.is_exact
    hat = then.history.items["hat"]
    assert (hat.count, hat.first_ms, hat.last_ms) == (3, 0, 100 * DAY_MS)
    assert 3 * 2 ** (-100 / 90) <= hat.decayed[2] <= 2 ** (-100 / 90) + 2


def test_a_moment_before_everything_that_is_kept_knows_first_events_only() -> None:
    events = [event(f"item-{t % 7}", t) for t in range(KEPT_EVENTS + 50)]
    then = as_of(UserHistory().extended([event("old", 0), *events]), 3)
    assert not then.is_exact
    assert then.history.events == ()
    assert {item: past.count for item, past in then.history.items.items()} == {"old": 1, "item-0": 1, "item-1": 1, "item-2": 1}
