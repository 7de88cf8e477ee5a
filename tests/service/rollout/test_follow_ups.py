"""What users turn to after an answer counts as a hit when it was among the first ten items shown."""

import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from service.api.schemas import Event, Recommended, RecommendRequest
from service.histories.history import StoredEvent, UserHistory
from service.ranking.user_request import UserRequest
from service.rollout import follow_ups
from service.rollout.follow_ups import ALL, WITHIN_MS, FollowUps
from service.telemetry.metrics import Metrics
from tests.service.conftest import NOW_MS
from tests.service.faults.processes import serving

MINUTE_MS = 60_000


class Shop:
    """Answers `item-0`, `item-1`, ... to users, and knows what they did."""

    def __init__(self) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.follow_ups = FollowUps(self.metrics)

    def ask(self, minutes: float, *events: StoredEvent, user: str = "ann", variant: str = "default", **body: Any) -> None:
        request = RecommendRequest(**({"user_id": user} | body))
        user_request = UserRequest(request, UserHistory(events, len(events)), NOW_MS + int(minutes * MINUTE_MS))
        items = [Recommended(item_id=f"item-{place}", score=1.0) for place in range(request.num_results)]
        self.follow_ups.note(variant, user_request, items)

    def counted(self, variant: str = "default") -> dict[str, float]:
        samples = [sample for family in self.metrics.follow_ups.collect() for sample in family.samples]
        mine = [s for s in samples if s.name.endswith("_total") and s.labels["variant"] == variant]
        return {s.labels["outcome"]: s.value for s in mine}


@pytest.fixture
def shop() -> Shop:
    return Shop()


def at(minutes: float, item: str | None, kind: str = "view") -> StoredEvent:
    return StoredEvent(user_id="ann", event_type=kind, time_ms=NOW_MS + int(minutes * MINUTE_MS), item_id=item)


@pytest.mark.parametrize(("item", "expected"), [("item-3", {"hit": 1, "miss": 0}), ("hat", {"hit": 0, "miss": 1})])
def test_the_first_item_after_an_answer_is_looked_for_in_it(shop: Shop, item: str, expected: dict[str, float]) -> None:
    shop.ask(0)
    shop.ask(3, at(1, item), at(2, "item-4" if item == "hat" else "hat"))
    assert shop.counted() == expected


def test_what_was_before_the_answer_or_is_no_item_or_another_kind_of_event_does_not_count(shop: Shop) -> None:
    shop.ask(0, at(-5, "item-1"), target_event_type="purchase")
    shop.ask(3, at(-5, "item-1"), at(0, "item-2"), at(1, None, "purchase"), at(2, "item-3", "view"))
    assert shop.counted() == {}


def test_only_the_first_ten_items_count(shop: Shop) -> None:
    shop.ask(0, num_results=20)
    shop.ask(2, at(1, "item-10"))
    shop.ask(4, at(1, "item-10"), at(3, "item-9"))
    assert shop.counted() == {"hit": 1, "miss": 1}


def test_an_answer_that_is_asked_for_again_takes_the_place_of_the_first(shop: Shop) -> None:
    shop.ask(0)
    shop.ask(1)
    shop.ask(3, at(2, "item-1"))
    assert shop.counted() == {"hit": 1, "miss": 0}


def test_who_comes_back_too_late_is_not_followed(shop: Shop) -> None:
    shop.ask(0)
    shop.ask(WITHIN_MS / MINUTE_MS + 1, at(1, "item-1"))
    assert shop.counted() == {}
    assert len(shop.follow_ups) == 1


def test_the_variant_that_answered_gets_the_count(shop: Shop) -> None:
    shop.ask(0, variant="canary")
    shop.ask(2, at(1, "hat"), variant="default")
    assert (shop.counted("canary"), shop.counted()) == ({"hit": 0, "miss": 1}, {})


def test_a_session_is_followed_by_the_events_that_it_brings(shop: Shop) -> None:
    session: dict[str, Any] = {"user_id": None, "session_id": "s"}
    shop.ask(0, **session)
    shop.ask(2, events=[Event(event_type="view", timestamp=NOW_MS + MINUTE_MS, item_id="item-2")], **session)
    assert shop.counted() == {"hit": 1, "miss": 0}


@pytest.mark.parametrize(
    "body", [{"timestamp": NOW_MS}, {"page_token": "next"}, {"user_id": None}, {"history_mode": "replace"}], ids=str
)
def test_questions_about_the_past_and_about_nobody_and_further_pages_are_left_out(shop: Shop, body: dict[str, Any]) -> None:
    shop.ask(0, **body)
    assert len(shop.follow_ups) == 0


def test_a_user_who_is_deleted_is_forgotten(shop: Shop) -> None:
    shop.ask(0)
    shop.follow_ups.forget("ann")
    assert len(shop.follow_ups) == 0


def test_of_very_many_users_a_share_is_followed_whose_size_is_bounded(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow_ups, "MAX_ANSWERS", 100)
    for number in range(2000):
        shop.ask(0, user=f"user-{number}")
    assert 100 >= len(shop.follow_ups) > 25
    assert ALL / 128 <= shop.follow_ups._share < ALL / 8
    followed = set(shop.follow_ups._shown)
    for number in range(2000):  # they all come back: only those are counted who were chosen before, quick or not
        shop.ask(2, at(1, "item-1"), user=f"user-{number}")
    assert shop.counted() == {"hit": len(followed), "miss": 0}
    for number in range(20):  # the crowd has gone
        shop.ask(60, user=f"late-{number}")
    assert shop.follow_ups._share == ALL


def test_a_real_server_tells_what_its_visitors_turned_to(tiny_store: Path, tmp_path: Path) -> None:
    with serving(tiny_store, tmp_path / "history.db") as server, httpx.Client(base_url=server.address) as http:

        def ask(user: str) -> list[str]:
            answer = http.post("/v1/recommend", json={"user_id": user}).raise_for_status().json()
            return [item["item_id"] for item in answer["items"]]

        def turn_to(user: str, item: str) -> None:
            time.sleep(0.005)  # an event of the very moment of the answer was there before it
            event = {"user_id": user, "event_type": "view", "item_id": item, "timestamp": time.time_ns() // 1_000_000}
            http.post("/v1/events", json={"events": [event]}).raise_for_status()

        for user in ("ann", "bob", "eve"):
            shown = ask(user)
            others = [f"item-{number}" for number in range(400) if f"item-{number}" not in shown]
            turn_to(user, others[0] if user == "bob" else shown[-1])
            ask(user)
        text = http.get("/metrics").text
    counted = {line for line in text.splitlines() if line.startswith("twotower_follow_ups_total")}
    labels = 'outcome="{}",variant="default"'
    assert counted == {f"twotower_follow_ups_total{{{labels.format(name)}}} {n}.0" for name, n in (("hit", 2), ("miss", 1))}
