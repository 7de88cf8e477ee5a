from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from service.api.schemas import Event, Recommended, RecommendRequest, SimilarRequest, check_id, to_ms


def event(**fields: Any) -> Event:
    body = {"events": [{"event_type": "view", "timestamp": "2025-01-01T00:00:00Z"} | fields]}
    return msgspec.convert(body, RecommendRequest).events[0]


@pytest.mark.parametrize(
    ("timestamp", "expected_ms"),
    [
        ("2025-01-01T00:00:00Z", 1_735_689_600_000),
        ("2025-01-01T01:00:00.5+01:00", 1_735_689_600_500),
        (1_735_689_600_123, 1_735_689_600_123),
    ],
)
def test_times_are_rfc_3339_or_epoch_milliseconds(timestamp: Any, expected_ms: int) -> None:
    assert event(timestamp=timestamp).time_ms == expected_ms


def test_milliseconds_are_exact_far_from_the_epoch() -> None:
    assert to_ms(datetime(2099, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)) == 4_102_444_799_999
    assert to_ms(datetime(2025, 1, 1, tzinfo=timezone(timedelta(hours=5)))) == 1_735_671_600_000


@pytest.mark.parametrize(
    "timestamp",
    [
        "2025-01-01T00:00:00",  # no zone
        "2025-01-01",
        "yesterday",
        "1979-12-31T23:59:59Z",
        "2100-01-01T00:00:01Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        1_735_689_600,  # seconds
        1_735_689_600_000_000,  # microseconds
        10**400,
        -1,
        1.5e12,
        True,
        None,
    ],
)
def test_other_times_are_refused(timestamp: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        event(timestamp=timestamp)


@pytest.mark.parametrize("given", ["a", "a" * 128, "é" * 64, "a/b", "🧦", " ", "é", "\u202etfel", "a\nb"])
def test_an_id_is_any_text_of_1_to_128_bytes(given: str) -> None:
    check_id(given)
    assert event(item_id=given).item_id == given


@pytest.mark.parametrize("given", ["", "a" * 129, "é" * 65, "🧦" * 33, "a\0b", "\0"])
def test_empty_long_and_nul_ids_are_refused(given: str) -> None:
    with pytest.raises(ValueError, match="id"):
        check_id(given)
    with pytest.raises(msgspec.ValidationError):
        event(item_id=given)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"exclude_item_ids": ["fine", given]}, RecommendRequest)


@pytest.mark.parametrize(
    "body",
    [
        {"num_results": 0},
        {"num_results": 501},
        {"num_results": 10**9},
        {"num_results": "5"},
        {"num_results": 2.5},
        {"history_mode": "merge"},
        {"exclude_seen": 1},
        {"timeout_ms": 0},
        {"events": [{"event_type": "view"}]},
        {"events": [{"event_type": "view", "timestamp": 10**12, "properties": {"a": [1]}}]},
        {"events": [{"event_type": "view", "timestamp": 10**12, "properties": {"a": 10**30}}]},
        {"events": [{"event_type": "view", "timestamp": 10**12}] * 1025},
        {"events": [{"event_type": "view", "timestamp": 10**12}], "history_mode": "stored"},
        {"events": [{"event_type": "view", "timestamp": 10**12, "user_id": "bob"}], "user_id": "ann"},
        {"events": [{"event_type": "search", "timestamp": 10**12, "query": "tea", "item_id": "tea"}]},
        {"events": [{"event_type": "search", "timestamp": 10**12, "query": "..."}]},
        {"events": [{"event_type": "search", "timestamp": 10**12, "query": "x" * 257}]},
        {"filter": "x" * 1001},
        {"exclude_sen": True},
        {"diversity": 1.5},
        {"diversity": -0.1},
        {"explain": True, "num_results": 21},
        {"page_token": 3},
        {"promotions": [{"name": "a", "filter": "x"}]},
        {"promotions": [{"name": "a", "filter": "x", "position": 1, "percent": 5}]},
        {"promotions": [{"name": "a", "filter": "x", "position": 0}]},
        {"promotions": [{"name": "a", "filter": "x", "position": 501}]},
        {"promotions": [{"name": "a", "filter": "x", "percent": 0}]},
        {"promotions": [{"name": "a", "filter": "x", "percent": 101}]},
        {"promotions": [{"name": "", "filter": "x", "percent": 1}]},
        {"promotions": [{"name": "a", "filter": "x", "percent": 1}] * 11},
    ],
)
def test_what_a_request_cannot_mean_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(body, RecommendRequest)


@pytest.mark.parametrize(
    ("promotions", "message"),
    [
        ([{"position": 2}, {"position": 3}, {"position": 2}], r"promotions\[2\].position: 'promotion 0' has position 2 already"),
        ([{"percent": 60}, {"position": 1}, {"percent": 41}], "promotions: their percents add up to 101"),
        ([{"percent": 60}, {}], r"promotions\[1\].position: give either position or percent"),
    ],
)
def test_promotions_that_contradict_each_other_are_refused_by_name(promotions: list[dict[str, Any]], message: str) -> None:
    body = {"promotions": [{"name": f"promotion {i}", "filter": "x"} | p for i, p in enumerate(promotions)]}
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(body, RecommendRequest)


def test_percents_may_fill_every_place() -> None:
    thirds = [{"name": "a", "filter": "x", "percent": percent} for percent in (33.34, 33.33, 33.33)]
    assert len(msgspec.convert({"promotions": thirds}, RecommendRequest).promotions) == 3


def test_similar_needs_an_item_id_or_an_item_and_not_both() -> None:
    for body in ({}, {"item_id": "a", "item": {}}):
        with pytest.raises(msgspec.ValidationError, match="either item_id or item"):
            msgspec.convert(body, SimilarRequest)


def test_the_place_of_an_item_comes_from_the_model_or_from_a_promotion() -> None:
    source = msgspec.json.schema(Recommended)["$defs"]["Recommended"]["properties"]["source"]
    assert source["enum"] == ["model", "promotion"]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"item_id": "a", "score": 1.0, "source": "fallback"}, Recommended)
