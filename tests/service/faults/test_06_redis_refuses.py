"""Row 6: Redis answers, but refuses."""

import asyncio
from collections.abc import Callable

import pytest

from service.histories.redis_history import RedisHistory, _keys
from service.histories.remembered import RememberedHistories
from tests.service.conftest import Client
from tests.service.redis_server import RedisServer

EVENT = {"user_id": "ann", "item_id": "item-3", "event_type": "view", "timestamp": "2025-05-01T12:00:00Z"}
FAULTS = {
    "full": "CONFIG SET maxmemory 1",
    "read_only": "REPLICAOF 127.0.0.1 1",
    "denied": "CONFIG SET requirepass secret-word\r\nCLIENT KILL TYPE normal",
    "damaged": f"SET {_keys('ann')[1]} garbage",
}


@pytest.mark.parametrize("reason", FAULTS)
def test_events_are_refused_with_the_reason_and_reads_say_what_they_lack(
    connect: Callable[..., Client], redis: RedisServer, reason: str
) -> None:
    store = RedisHistory(redis.url, 2.0, 1.0)
    client = connect(RememberedHistories(store, 10**8, lambda: None))
    assert client.post("/v1/events", {"events": [EVENT]}).status_code == 202
    assert not redis.ask(FAULTS[reason]).startswith(b"-")
    client.run(asyncio.sleep(0.05))

    refused = client.post("/v1/events", {"events": [EVENT]})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (503, "history_unavailable")
    assert f"({reason})" in error["message"]
    for hidden in ("Traceback", "script", "secret-word", str(redis.socket)):
        assert hidden not in refused.text
    answer = client.recommend(user_id="ann")
    readable = reason in ("full", "read_only")  # both can still be read, and hold the first event alone
    assert (answer["history_seq"], answer["degraded"]) == ((1, []) if readable else (None, ["history_unavailable"]))
    metrics = client.get("/metrics").text
    assert f'twotower_history_errors_total{{op="append",reason="{reason}"}} 1.0' in metrics


def test_one_damaged_user_does_not_cut_off_the_others(connect: Callable[..., Client], redis: RedisServer) -> None:
    client = connect(RedisHistory(redis.url, 2.0, 1.0))
    redis.ask(FAULTS["damaged"])
    for _ in range(10):  # more than the circuit breaker bears of a Redis that is silent
        assert client.recommend(user_id="ann", validate_only=True)["degraded"] == ["history_unavailable"]
        assert client.recommend(user_id="bob", validate_only=True)["degraded"] == []
