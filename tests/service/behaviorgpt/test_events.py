"""Histories of the client as events of ours."""

from typing import Any

import msgspec
import pytest

from service.api.errors import ApiError
from service.api.schemas import Event
from service.behaviorgpt.bodies import RankingBody
from service.behaviorgpt.events import EventTypes, events_of, num_known, query_of, stored_form, without_early_searches
from service.histories.intake import to_stored
from twotower.data.schema import Constant, EventColumns

NOW_MS = 1_746_057_600_000
COLUMNS = EventColumns(features={"gender": "categorical", "quantity": "numeric"})
TYPES = EventTypes.of(None, COLUMNS)


def sent(what: dict[str, Any], at: str = "2025-05-01T00:00:00.000001Z", **more: Any) -> dict[str, Any]:
    return {"event": what, "timestamp": at, "session_id": "s1", "store_id": "retail_catalog", **more}


def read(*history: dict[str, Any], types: EventTypes = TYPES, columns: EventColumns = COLUMNS, **more: Any) -> list[Event]:
    body = msgspec.convert({"history": list(history), **more}, RankingBody, strict=False)
    return events_of(body, types, columns, lambda catalogue, item: f"{catalogue}:{item}", NOW_MS)


def view(item: str, **more: Any) -> dict[str, Any]:
    return sent({"product": item, "type": "viewItem"}, **more)


def search(query: str) -> dict[str, Any]:
    return sent({"type": "search", "query": query})


def test_each_type_of_the_client_has_one_of_ours_and_removals_are_left_out() -> None:
    order = {"type": "order", "items": [{"product": "a", "quantity": 2}, {"product": "b", "quantity": 1}], "cart_id": "c"}
    cart = [sent({"product": "x", "type": kind}) for kind in ("addToCart", "removeFromCart")]
    events = read(view("v"), *cart, sent(order), search("tea"))

    assert [(e.event_type, e.item_id, e.query) for e in events] == [
        ("view", "retail_catalog:v", None),
        ("add_to_cart", "retail_catalog:x", None),
        ("purchase", "retail_catalog:a", None),
        ("purchase", "retail_catalog:b", None),
        ("search", None, "tea"),
    ]
    assert [e.properties for e in events[2:4]] == [{"quantity": 2}, {"quantity": 1}]


def test_a_setting_names_other_types() -> None:
    types = EventTypes.of("viewItem=click, removeFromCart=drop,order=", COLUMNS)
    events = read(view("v"), sent({"product": "x", "type": "removeFromCart"}), sent({"type": "order", "items": []}), types=types)
    assert [e.event_type for e in events] == ["click", "drop"]
    assert (types.view, types.order) == ("click", None)


@pytest.mark.parametrize("setting", ["view=click", "viewItem", "viewItem:click"])
def test_a_setting_that_names_no_type_of_the_client_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match="viewItem"):
        EventTypes.of(setting, COLUMNS)


def test_a_log_of_one_type_has_that_type_for_every_item() -> None:
    types = EventTypes.of(None, EventColumns(event_type=Constant(constant="bought")))
    assert [types.by_kind[kind] for kind in ("viewItem", "order", "removeFromCart", "search")] == [
        "bought",
        "bought",
        "",
        "search",
    ]


def test_events_of_a_clock_ahead_are_moved_back_together() -> None:
    events = read(view("a", at="2025-05-01T00:00:01Z"), view("b", at="2025-05-01T00:00:03Z"))
    assert [e.time_ms - NOW_MS for e in events] == [-2000, 0]


def test_with_a_moment_to_rank_for_times_stay_as_they_are() -> None:
    events = read(view("a", at="2025-05-01T00:00:01Z"), timestamp="2025-06-01T00:00:00Z")
    assert events[0].time_ms == NOW_MS + 1000


def test_a_query_is_a_search_at_the_end() -> None:
    events = read(view("a"), query="  green tea ")
    assert [(e.event_type, e.query) for e in events] == [("view", None), ("search", "green tea")]


def test_a_query_without_a_letter_is_left_out_and_a_long_one_is_cut() -> None:
    assert query_of("?!") == query_of("") == ""
    assert query_of("x" * 300) == "x" * 256


def test_of_the_searches_in_a_row_at_the_end_the_last_are_kept() -> None:
    events = read(search("a"), view("v"), search("b"), search("c"), query="d", max_trailing_searches=2)
    assert [e.query for e in events] == ["a", None, "c", "d"]
    assert without_early_searches([], 3) == []


def test_what_the_client_says_of_the_shopper_is_kept_where_the_schema_reads_it() -> None:
    domains = {"market": "se", "gender": "female", "age_group": "unk"}
    assert read(view("a", domains=domains))[0].properties == {"gender": "female"}
    assert read(view("a", domains={"gender": "unk"}))[0].properties == {}


def test_a_view_without_an_item_is_refused() -> None:
    with pytest.raises(ApiError, match=r"history\[1\].*product") as refused:
        read(view("a"), sent({"type": "viewItem"}))
    assert refused.value.status == 400


def test_orders_of_too_many_items_are_refused() -> None:
    orders = [sent({"type": "order", "items": [{"product": f"{i}", "quantity": 1} for i in range(600)]}) for _ in range(2)]
    with pytest.raises(ApiError, match="1200 events"):
        read(*orders)


@pytest.mark.parametrize(
    ("before", "now", "known"),
    [("", "ab", 0), ("ab", "abc", 2), ("xab", "abc", 2), ("ab", "ab", 2), ("ab", "cd", 0), ("aba", "ab", 1), ("a", "aa", 1)],
)
def test_what_was_stored_by_a_call_before_is_found_at_the_end_of_the_history(before: str, now: str, known: int) -> None:
    stored = [to_stored(event, "ann") for event in read(*map(view, before))]
    assert num_known(stored, read(*map(view, now))) == known


def test_a_request_that_is_sent_again_has_the_same_event_ids_and_another_one_has_not() -> None:
    def ids(at: str) -> list[str | None]:
        body = msgspec.convert({"history": [view("a", at=at), view("b", at=at)]}, RankingBody, strict=False)
        return [e.event_id for e in stored_form("ann", body, read(view("a", at=at), view("b", at=at)), 0)]

    first = ids("2025-05-01T00:00:00Z")
    assert first == ids("2025-05-01T00:00:00Z")
    assert len({*first, *ids("2025-05-01T00:00:01Z")}) == 4
