"""Row 24: events twice, out of order and from the future; clocks that are a day off or step back."""

import math
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from service.histories.redis_history import RedisHistory
from service.histories.remembered import RememberedHistories
from service.routes import asking, events
from tests.service.conftest import Client

DAY_MS = 86_400_000


@pytest.fixture
def client(connect: Callable[..., Client], redis_url: str) -> Client:
    client = connect(RememberedHistories(RedisHistory(redis_url, 5.0, 1.0), 10**8, lambda: None))
    for user in ("ann", "bob"):
        client.request("DELETE", f"/v1/users/{user}")
    return client


def event(number: int, time_ms: int, user: str = "ann") -> dict[str, Any]:
    return {"user_id": user, "item_id": f"item-{number % 5}", "event_type": "view", "timestamp": time_ms, "event_id": str(number)}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def check_answer(client: Client, user: str, num_events: int) -> None:
    answer = client.recommend(user_id=user)
    assert (answer["history_seq"], answer["degraded"]) == (num_events, [])
    assert all(math.isfinite(item["score"]) for item in answer["items"])
    assert answer["took_ms"] >= 0


def test_a_batch_sent_twice_is_stored_once(client: Client) -> None:
    batch = [event(i, now_ms() - i) for i in range(50)]
    first, second = (client.post("/v1/events", {"events": batch}).json() for _ in range(2))
    assert (first["accepted"], second["accepted"], second["duplicates"]) == (50, 0, 50)
    check_answer(client, "ann", 50)


def test_events_out_of_order_are_counted_alike(client: Client) -> None:
    start_ms = now_ms() - 40 * DAY_MS
    ordered = [event(i, start_ms + i * DAY_MS) for i in range(40)]
    mixed = [e | {"user_id": "bob"} for e in random.Random(0).sample(ordered, 40)]
    for batch in (ordered, mixed):
        assert client.post("/v1/events", {"events": batch}).json()["accepted"] == 40
    ann, bob = ({i["item_id"]: i for i in client.get(f"/v1/users/{user}").json()["items"]} for user in ("ann", "bob"))
    assert ann == bob
    for user in ("ann", "bob"):
        check_answer(client, user, 40)


def test_nothing_stored_lies_in_the_future(client: Client) -> None:
    before_ms = now_ms()
    ahead = [event(1, before_ms + DAY_MS - 60_000), event(2, before_ms + DAY_MS + 60_000), event(3, before_ms - DAY_MS)]
    answer = client.post("/v1/events", {"events": ahead}).json()
    assert (answer["accepted"], [r["index"] for r in answer["rejected"]]) == (2, [1])
    stored = client.get("/v1/users/ann").json()
    assert before_ms <= stored["events"][-1]["timestamp"] <= now_ms()
    assert stored["items"][0]["last"] <= now_ms()
    check_answer(client, "ann", 2)


@pytest.mark.parametrize("step_ms", [-DAY_MS, -3_600_000, DAY_MS])
def test_a_server_whose_clock_steps_goes_on(client: Client, monkeypatch: pytest.MonkeyPatch, step_ms: int) -> None:
    client.post("/v1/events", {"events": [event(i, now_ms() - i * 1000) for i in range(5)]})
    check_answer(client, "ann", 5)

    for module in (asking, events):
        monkeypatch.setattr(module, "now_ms", lambda: now_ms() + step_ms)
    # Clients whose clocks are right: a minute ago to them may be nearly a day ahead of us.
    answer = client.post("/v1/events", {"events": [event(10 + i, now_ms() - 60_000 + i) for i in range(5)]}).json()
    assert answer["accepted"] == 5
    check_answer(client, "ann", 10)
    after_the_step = [e for e in client.get("/v1/users/ann").json()["events"] if int(e["event_id"]) >= 10]
    assert len(after_the_step) == 5
    assert max(e["timestamp"] for e in after_the_step) <= now_ms() + min(step_ms, 0)
