"""POST /v1/recommend, alone and in batches, over HTTP."""

import asyncio
import logging
import math
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.batches import MAX_BATCH
from service.api.errors import ApiError
from service.api.schemas import RecommendRequest
from service.engine.calls import ModelCalls
from service.engine.thread import Place
from service.histories.history import UserHistory
from service.histories.redis_history import RedisHistory
from service.histories.sqlite_history import SqliteHistory
from service.ranking.rules import Ranking
from service.ranking.user_request import UserRequest
from service.release.loaded import LoadedRelease
from tests.service.conftest import NOW_MS, Client, UnreachableHistory
from tests.service.key_files import bearer, entry, write_keys
from tests.service.routes.bodies import event, json_values, request_like
from tests.service.routes.busy import keep_busy

FIELDS = {
    "recommendation_id",
    "items",
    "release",
    "variant",
    "events_used",
    "events_ignored",
    "missing_item_ids",
    "history_seq",
    "degraded",
    "next_page_token",
    "took_ms",
}


def test_an_answer_always_has_the_same_fields_and_names_its_release(client: Client, release: LoadedRelease) -> None:
    for body in ({}, {"user_id": "ann"}, {"filter": "price < 0"}, {"validate_only": True}):
        answer = client.recommend(**body)
        assert set(answer) == FIELDS
        assert (answer["release"], answer["variant"]) == (release.id, "default")
    items = client.recommend()["items"]
    assert len(items) == 10
    assert all(set(i) == {"item_id", "score", "source", "promotion", "metadata", "reasons"} for i in items)


def test_an_event_changes_the_next_answer(client: Client) -> None:
    before = client.recommend(user_id="ann")
    stored = client.post("/v1/events", {"events": [event("item-3")]})
    after = client.recommend(user_id="ann")
    assert (stored.status_code, stored.json()) == (202, {"accepted": 1, "duplicates": 0, "rejected": []})
    assert (before["history_seq"], after["history_seq"]) == (0, 1)
    assert (before["events_used"], after["events_used"]) == (0, 1)
    assert before["items"] != after["items"]


def test_without_a_user_id_no_history_is_asked_for(connect: Callable[..., Client]) -> None:
    client = connect(UnreachableHistory())
    assert client.recommend()["history_seq"] is None
    assert client.recommend(user_id="ann", history_mode="replace", events=[])["degraded"] == []


def test_inline_events_are_not_stored(client: Client) -> None:
    client.recommend(user_id="ann", events=[event()])
    assert client.recommend(user_id="ann")["history_seq"] == 0


def test_without_its_history_a_user_is_answered_and_the_answer_says_so(connect: Callable[..., Client]) -> None:
    client = connect(UnreachableHistory())
    answer = client.recommend(user_id="ann", events=[event()])
    assert (answer["degraded"], answer["history_seq"], answer["events_used"]) == (["history_unavailable"], None, 1)
    assert len(answer["items"]) == 10


def test_strict_is_rather_refused_than_answered_without_the_history(connect: Callable[..., Client]) -> None:
    client = connect(UnreachableHistory())
    response = client.post("/v1/recommend", {"user_id": "ann", "strict": True})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "history_unavailable")
    assert client.recommend(user_id="ann", history_mode="replace", strict=True)["degraded"] == []
    assert connect().recommend(user_id="ann", strict=True)["history_seq"] == 0


def test_without_its_history_nothing_is_acknowledged(connect: Callable[..., Client]) -> None:
    client = connect(UnreachableHistory())
    refused = [
        client.post("/v1/events", {"events": [event()]}),
        client.get("/v1/users/ann"),
        client.request("DELETE", "/v1/users/ann"),
    ]
    for response in refused:
        assert (response.status_code, response.json()["error"]["code"]) == (503, "history_unavailable")
        assert int(response.headers["retry-after"]) >= 1


def test_a_redis_that_is_not_there_degrades_reads_and_refuses_events(connect: Callable[..., Client], tmp_path: Path) -> None:
    client = connect(RedisHistory(f"unix://{tmp_path / 'nothing'}", 0.5, 1.0))
    assert client.recommend(user_id="ann")["degraded"] == ["history_unavailable"]
    assert client.post("/v1/events", {"events": [event()]}).status_code == 503


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_recommend_event_recommend_with_a_real_store(
    connect: Callable[..., Client], kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "redis":
        client = connect(RedisHistory(request.getfixturevalue("redis_url"), 5.0, 1.0))
        client.request("DELETE", "/v1/users/ann")
    else:
        client = connect(SqliteHistory(tmp_path / "h.db"))
    client.post("/v1/events", {"events": [event("item-3", event_id="1"), event("item-4", event_id="2")]})
    client.post("/v1/events", {"events": [event("item-3", event_id="1")]})
    answer = client.recommend(user_id="ann", exclude_seen=True, num_results=500)
    assert (answer["history_seq"], answer["events_used"]) == (2, 2)
    assert not {"item-3", "item-4"} & {i["item_id"] for i in answer["items"]}


def test_a_request_that_waits_past_its_time_is_refused_and_not_worked_on(connect: Callable[..., Client]) -> None:
    client = connect()
    gate = threading.Event()
    blocker = client.run(keep_busy(client, gate))
    response = client.post("/v1/recommend", {"timeout_ms": 30})
    gate.set()
    client.run(blocker)
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert 'twotower_deadline_exceeded_total{stage="engine"} 1.0' in client.get("/metrics").text


def test_more_requests_than_may_wait_are_refused_with_a_time_to_come_back(connect: Callable[..., Client]) -> None:
    client = connect(max_queued=1)
    gate = threading.Event()
    blocker = client.run(keep_busy(client, gate))

    async def both() -> list[int]:
        calls = [client.http.post("/v1/recommend", json={"timeout_ms": 200}) for _ in range(2)]
        answers = await asyncio.gather(*calls)
        assert all(a.headers["retry-after"] == "1" for a in answers if a.status_code == 503)
        return sorted(a.status_code for a in answers)

    assert client.run(both()) == [503, 504]  # one waits and runs out of time, one finds no place to wait
    gate.set()
    client.run(blocker)
    assert 'twotower_admission_rejected_total{reason="queue_full"} 1.0' in client.get("/metrics").text


@pytest.mark.parametrize("path", ["/recommend", "/similar", "/events"])
def test_an_alias_answers_as_the_route_it_stands_for(client: Client, path: str) -> None:
    moment = {"timestamp": "2026-11-22T10:00:00Z"}  # scores follow the clock
    body = {"/recommend": moment, "/similar": {"item_id": "item-1"}, "/events": {"events": []}}[path]
    short, full = client.post(path, body), client.post("/v1" + path, body)
    assert short.status_code == full.status_code < 300
    assert short.json().get("items") == full.json().get("items")


def test_timestamp_is_the_moment_the_prediction_is_for(client: Client, histories: dict[str, UserHistory]) -> None:
    now, later = client.recommend(timestamp="2025-05-01T00:00:00Z"), client.recommend(timestamp=1_761_955_200_000)
    assert now["items"][0]["score"] != later["items"][0]["score"]
    assert now["items"] == client.recommend(timestamp="2025-05-01T02:00:00+02:00")["items"]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(body=st.binary(max_size=60))
def test_no_bytes_give_a_server_error(shared_client: Client, body: bytes) -> None:
    for path in ("/v1/recommend", "/v1/recommend/batch", "/v1/similar", "/v1/score", "/v1/events"):
        assert shared_client.post_raw(path, body).status_code in (200, 400, 422)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(body=st.one_of(request_like, json_values))
def test_no_json_body_gives_a_server_error(shared_client: Client, body: Any) -> None:
    assert shared_client.post("/v1/recommend", body).status_code in (200, 422)


def metric(client: Client, name: str, **labels: str) -> float:
    return client.context.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize("more", [{}, {"explain": True}])
def test_a_request_that_is_only_checked_costs_the_engine_nothing(client: Client, more: dict[str, Any]) -> None:
    user = uuid.uuid4().hex  # the release, and what is kept of users, is shared by all tests
    before = metric(client, "twotower_batch_size_count")
    answer = client.recommend(user_id=user, events=[event(user=user)], validate_only=True, **more)
    assert (answer["items"], answer["events_used"]) == ([], 1)
    assert metric(client, "twotower_batch_size_count") == before
    assert ("user", user) not in client.context.served.current.users
    assert metric(client, "twotower_empty_results_total") == 0
    client.recommend(user_id=user, events=[event(user=user)], **more)
    assert metric(client, "twotower_batch_size_count") - before == (
        0 if more else 1
    )  # an explanation is not counted among batches
    assert ("user", user) in client.context.served.current.users


def test_an_item_has_its_place_by_the_model_or_by_a_promotion_also_when_the_history_is_missing(
    connect: Callable[..., Client],
) -> None:
    promotion = {"name": "cheap", "filter": "price < 3", "position": 2}
    for client in (connect(), connect(UnreachableHistory())):
        plain = client.recommend(user_id="ann")["items"]
        promoted = client.recommend(user_id="ann", promotions=[promotion])["items"]
        assert {item["source"] for item in plain} == {"model"}
        assert {item["source"] for item in promoted} == {"model", "promotion"}


def batch(client: Client, *requests: Any) -> list[dict[str, Any]]:
    response = client.post("/v1/recommend/batch", {"requests": requests})
    assert response.status_code == 200, response.text
    return list(response.json()["results"])


def test_each_request_is_answered_as_if_it_had_come_alone(client: Client) -> None:
    event = {"item_id": "item-3", "event_type": "view", "timestamp": NOW_MS - 1000}
    requests: list[dict[str, Any]] = [{"num_results": 3}, {"events": [event]}, {"filter": "price < 2", "diversity": 0.5}]
    requests = [request | {"timestamp": NOW_MS} for request in requests]
    alone = [client.recommend(**request) for request in requests]
    together = batch(client, *requests)
    assert [set(answer) for answer in together] == [set(answer) for answer in alone]
    assert [answer["items"] for answer in together] == [answer["items"] for answer in alone]
    assert len({answer["recommendation_id"] for answer in together}) == 3


def test_a_request_that_is_refused_leaves_the_others_alone(client: Client) -> None:
    results = batch(
        client, {"num_results": 2}, {"num_results": 0}, 7, {"filter": "titel < 2"}, {"diversty": 1}, {"num_results": 2}
    )
    assert [list(r) == ["error"] for r in results] == [False, True, True, True, True, False]
    assert [r["error"]["code"] for r in results[1:5]] == ["invalid_request"] * 4
    assert [r["error"].get("field") for r in results[1:5]] == ["num_results", None, "filter", "diversty"]
    assert all(r["error"]["request_id"] for r in results[1:5])


@pytest.mark.parametrize("body", [{}, {"requests": {}}, {"requests": [{}] * (MAX_BATCH + 1)}, {"requests": [], "x": 1}, []])
def test_a_body_that_is_no_batch_is_refused_as_a_whole(client: Client, body: Any) -> None:
    assert client.post("/v1/recommend/batch", body).status_code == 422


def test_a_full_batch_is_answered_and_an_empty_one_too(client: Client) -> None:
    assert len(batch(client, *[{"num_results": 1}] * MAX_BATCH)) == MAX_BATCH
    assert batch(client) == []


def test_all_requests_of_a_batch_wait_for_the_engine_at_the_same_time(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    meeting = asyncio.Barrier(3)

    async def meet(_: ModelCalls, release: LoadedRelease, user: UserRequest[RecommendRequest], place: Place) -> Ranking:
        async with asyncio.timeout(5):
            await meeting.wait()  # opens for three that wait together
        return Ranking([], 0, 0, [], [])

    monkeypatch.setattr(ModelCalls, "recommend", meet)
    assert [answer["items"] for answer in batch(client, {}, {}, {})] == [[], [], []]


def test_an_entry_that_fails_by_a_bug_fails_alone_and_its_text_stays_in_the_log(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: ModelCalls, release: LoadedRelease, user: UserRequest[RecommendRequest], place: Place) -> Ranking:
        if user.request.num_results == 1:
            raise RuntimeError("a secret of ours")
        if user.request.num_results == 2:
            raise ApiError("overloaded", "try again shortly")
        return Ranking([], 0, 0, [], [])

    monkeypatch.setattr(ModelCalls, "recommend", fail)
    body = {"requests": [{"num_results": n} for n in (1, 2, 3)]}
    with caplog.at_level(logging.ERROR):
        response = client.request("POST", "/v1/recommend/batch", json=body, headers={"x-request-id": "id-7"})
    broken, busy, good = response.json()["results"]
    assert (broken["error"]["code"], broken["error"]["request_id"]) == ("internal", "id-7")
    assert (busy["error"]["code"], good["items"]) == ("overloaded", [])
    assert "secret" not in response.text
    assert "a secret of ours" in caplog.text
    assert "id-7" in caplog.text


def test_a_batch_takes_as_many_requests_of_its_keys_quota_as_it_holds(connect: Callable[..., Client], tmp_path: Path) -> None:
    """It is answered though there are too few; then single requests wait until the debt is paid."""
    rate = 0.01
    keys = (entry("web", "recommend", rate=rate, burst=6), entry("other", "recommend", rate=rate, burst=6))
    client = connect(keys=write_keys(tmp_path / "keys.toml", *keys))

    def send(path: str, body: Any, key: str = "web") -> Any:
        return client.request("POST", path, json=body, headers=bearer(key))

    assert len(send("/v1/recommend/batch", {"requests": [{}] * 3}).json()["results"]) == 3
    assert send("/v1/recommend", {}).status_code == 200  # two are left
    assert len(send("/v1/recommend/batch", {"requests": [{}] * 5}).json()["results"]) == 5  # three more than there are
    refused = send("/v1/recommend", {})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "quota_exceeded")
    assert math.ceil(3.9 / rate) <= int(refused.headers["retry-after"]) <= 4 / rate  # three of the debt, and one for itself
    assert send("/v1/recommend", {}, "other").status_code == 200


def test_an_empty_batch_takes_one_request_of_the_quota(connect: Callable[..., Client], tmp_path: Path) -> None:
    client = connect(keys=write_keys(tmp_path / "keys.toml", entry("web", "recommend", rate=0.01, burst=2)))
    body: dict[str, Any] = {"requests": []}
    answers = [client.request("POST", "/v1/recommend/batch", json=body, headers=bearer("web")).status_code for _ in range(3)]
    assert answers == [200, 200, 429]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    requests=st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=5), st.just({}), st.just({"filter": "("})), max_size=5)
)
def test_every_request_has_its_own_result(shared_client: Client, requests: list[Any]) -> None:
    results = batch(shared_client, *requests)
    assert ["error" in result for result in results] == [request != {} for request in requests]
