"""Row 1: Redis is down when the server starts."""

import time
from collections.abc import Callable
from typing import Any

from service.histories.redis_history import RedisHistory
from service.histories.remembered import RememberedHistories
from tests.service.conftest import Client
from tests.service.redis_server import RedisServer

EVENT = {"user_id": "ann", "item_id": "item-3", "event_type": "view", "timestamp": "2025-05-01T12:00:00Z"}


def test_without_redis_the_server_answers_what_it_can_and_recovers_within_two_seconds(
    connect: Callable[..., Client], redis: RedisServer
) -> None:
    redis.stop()
    client = connect(RememberedHistories(RedisHistory(redis.url, 0.2, 1.0), 10**8, lambda: None))

    for _ in range(10):  # enough for the circuit breaker to open
        assert client.get("/readyz").status_code == 200
        assert client.recommend(user_id="ann", history_mode="replace", events=[EVENT])["degraded"] == []
        answer = client.recommend(user_id="ann")
        assert (answer["degraded"], len(answer["items"])) == (["history_unavailable"], 10)
        strict = client.post("/v1/recommend", {"user_id": "ann", "strict": True})
        assert (strict.status_code, strict.json()["error"]["code"]) == (503, "history_unavailable")
        assert client.post("/v1/events", {"events": [EVENT]}).status_code == 503

    redis.start()
    seconds, acknowledged = until(lambda: client.post("/v1/events", {"events": [EVENT]}).status_code == 202)
    assert acknowledged, f"nothing was acknowledged for {seconds:.1f} s"
    after = client.recommend(user_id="ann", strict=True)
    assert (after["degraded"], after["history_seq"]) == ([], 1)


def until(holds: Callable[[], Any], limit_s: float = 2.0) -> tuple[float, bool]:
    """How long it took, and whether it came true in time."""
    started_s = time.monotonic()
    while not (came := bool(holds())) and time.monotonic() - started_s < limit_s:
        time.sleep(0.02)
    return time.monotonic() - started_s, came
