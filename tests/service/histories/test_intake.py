"""Events on their way in."""

from typing import Any

import msgspec
import pytest

from service.api.schemas import Event, HistoryMode, RecommendRequest
from service.histories.history import StoredEvent, UserHistory
from service.histories.intake import CLOCK_SKEW_MS, merge_inline, to_stored, validate_events
from tests.service.conftest import NOW_MS


def raw(**fields: Any) -> msgspec.Raw:
    """An event as it comes; a field of None is left out."""
    event = {"user_id": "ann", "event_type": "view", "timestamp": NOW_MS} | fields
    return msgspec.Raw(msgspec.json.encode({name: value for name, value in event.items() if value is not None}))


def reason(event: msgspec.Raw) -> str:
    good, (rejected,) = validate_events([event], NOW_MS)
    assert (good, rejected.index) == ([], 0)
    return rejected.reason


EVERY_FIELD: dict[str, Any] = {
    "user_id": "ann",
    "event_type": "buy",
    "timestamp": NOW_MS - 5,
    "item_id": "hat",
    "query": "warm hat",
    "event_id": "e",
    "session_id": "s",
    "value": 2.5,
    "properties": {"channel": "web", "n": 3, "x": None},
    "recommendation_id": "r",
    "position": 4,
}


def test_a_stored_event_has_every_field_of_the_event_that_was_sent() -> None:
    assert set(EVERY_FIELD) == set(Event.__struct_fields__)
    expected = EVERY_FIELD | {"user_id": "bob", "time_ms": NOW_MS - 5}
    stored = msgspec.structs.asdict(to_stored(msgspec.convert(EVERY_FIELD, Event), "bob"))
    assert stored == {name: expected[name] for name in StoredEvent.__struct_fields__}


def test_of_several_events_the_good_ones_are_kept_in_order_and_the_others_named_by_their_places() -> None:
    events = [raw(item_id="a"), msgspec.Raw(b"7"), raw(item_id="b"), raw(timestamp="soon"), raw(item_id="c")]
    good, rejected = validate_events(events, NOW_MS)
    assert [event.item_id for event in good] == ["a", "b", "c"]
    assert [one.index for one in rejected] == [1, 3]
    assert validate_events([], NOW_MS) == ([], [])


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (raw(user_id=None), "user_id"),
        (raw(event_type=None), "event_type"),
        (raw(timestamp=None), "timestamp"),
        (raw(timestamp=5), "timestamp"),
        (raw(item_id=""), "item_id"),
        (raw(item_id="é" * 65), "item_id: an id has 1 to 128 UTF-8 bytes"),
        (raw(event_id="a\0b"), "event_id: an id must not hold a NUL character"),
        (raw(propertes={}), "propertes"),
        (raw(properties={"x": []}), "properties"),
        (raw(query="hat", item_id="hat"), "query: a search has no item_id"),
        (raw(query=" ?! "), "query: it has no letter and no digit"),
        (raw(query=""), "(field query)"),
        (raw(query="x" * 257), "(field query)"),
        (raw(query=7), "(field query)"),
        (msgspec.Raw(b"{"), "the body is not JSON"),
    ],
)
def test_an_event_that_cannot_be_stored_is_rejected_by_field(event: msgspec.Raw, said: str) -> None:
    assert said in reason(event)


@pytest.mark.parametrize("query", ["hat", "x" * 256, "熱いお茶 7", "a\0b", "7"])
def test_a_search_is_stored_with_its_text_as_it_was_typed(query: str) -> None:
    (search,), rejected = validate_events([raw(event_type="search", query=query)], NOW_MS)
    assert (search.query, search.item_id, search.event_type, rejected) == (query, None, "search", [])


def test_an_event_of_a_day_ahead_is_stored_as_of_now_and_a_later_one_is_rejected() -> None:
    times_ms = [NOW_MS - 9, NOW_MS, NOW_MS + 1, NOW_MS + CLOCK_SKEW_MS]
    good, rejected = validate_events([raw(timestamp=time_ms) for time_ms in times_ms], NOW_MS)
    assert ([event.time_ms for event in good], rejected) == ([NOW_MS - 9, NOW_MS, NOW_MS, NOW_MS], [])
    assert reason(raw(timestamp=NOW_MS + CLOCK_SKEW_MS + 1)).startswith("timestamp: it is more than a day in the future")


def stored(item: str) -> StoredEvent:
    return StoredEvent(user_id="ann", event_type="view", time_ms=NOW_MS, item_id=item)


STORED = UserHistory().extended([stored("a"), stored("b")])


def request_with(mode: HistoryMode, *items: str) -> RecommendRequest:
    events = [Event(event_type="view", timestamp=NOW_MS, item_id=item) for item in items]
    return RecommendRequest(user_id="ann", events=events, history_mode=mode)


@pytest.mark.parametrize(
    ("mode", "inline", "merged"),
    [("append", "ca", "abca"), ("replace", "c", "c"), ("replace", "", ""), ("stored", "", "ab"), ("append", "", "ab")],
)
def test_inline_events_are_read_after_the_stored_ones_instead_of_them_or_not_at_all(
    mode: HistoryMode, inline: str, merged: str
) -> None:
    history = merge_inline(STORED, request_with(mode, *inline)).history
    assert [event.item_id for event in history.events] == list(merged)
    assert (history.num_events, set(history.items)) == (len(merged), set(merged))
    assert [event.item_id for event in STORED.events] == ["a", "b"]


def test_without_inline_events_the_history_is_the_same_object() -> None:
    assert merge_inline(STORED, request_with("append")).history is STORED


@pytest.mark.parametrize(("mode", "known"), [("append", "ayb"), ("replace", "y")])
def test_inline_events_have_their_place_by_time_and_none_from_the_moment_of_the_request_on_is_known(
    mode: HistoryMode, known: str
) -> None:
    history = UserHistory().extended(
        msgspec.structs.replace(stored(i), time_ms=NOW_MS + t) for i, t in (("a", 1), ("b", 5), ("c", 9))
    )
    times = {"z": 9, "y": 3, "x": 20}
    events = [Event(event_type="view", timestamp=NOW_MS + t, item_id=item) for item, t in times.items()]
    request = RecommendRequest(user_id="ann", events=events, history_mode=mode, timestamp=NOW_MS + 9)
    merged = merge_inline(history, request)
    assert ("".join(e.item_id or "" for e in merged.history.events), merged.is_exact) == (known, True)
    assert set(merged.history.items) == set(known)


def test_inline_events_belong_to_the_user_of_the_request_or_to_nobody() -> None:
    assert merge_inline(UserHistory(), request_with("append", "c")).history.events[0].user_id == "ann"
    nobody = RecommendRequest(events=[Event(event_type="view", timestamp=NOW_MS, item_id="c")])
    assert merge_inline(UserHistory(), nobody).history.events[0].user_id == ""
