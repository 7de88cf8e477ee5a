import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.histories.history import UserHistory
from service.histories.redis_history import RedisHistory
from service.histories.sqlite_history import SqliteHistory
from service.release.loaded import LoadedRelease
from service.routes.context import Service
from tests.service.conftest import Client, UnreachableHistory

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


def event(item: str = "item-1", user: str = "ann", **fields: Any) -> dict[str, Any]:
    return {"user_id": user, "item_id": item, "event_type": "view", "timestamp": "2025-05-01T12:00:00Z"} | fields


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


def test_good_events_are_stored_though_others_are_rejected(client: Client) -> None:
    events = [
        event("item-1", event_id="1"),
        {"event_type": "view"},
        event("item-2", timestamp="2025-05-01"),
        event("item-1", event_id="1"),
        {k: v for k, v in event().items() if k != "user_id"},
        event(timestamp=int(time.time() * 1000) + 2 * 86_400_000),
        event(user=""),
        event("x" * 129),
        "no event",
        event(user="bob"),
    ]
    answer = client.post("/v1/events", {"events": events}).json()
    assert (answer["accepted"], answer["duplicates"]) == (2, 1)
    assert [r["index"] for r in answer["rejected"]] == [1, 2, 4, 5, 6, 7, 8]
    reasons = {r["index"]: r["reason"] for r in answer["rejected"]}
    assert "timestamp" in reasons[1]
    assert "user_id" in reasons[4]
    assert "future" in reasons[5]
    assert client.get("/v1/users/bob").json()["num_events"] == 1


def test_an_event_within_a_day_of_our_clock_is_stored(client: Client) -> None:
    ahead = event(timestamp=int(time.time() * 1000) + 23 * 3_600_000)
    assert client.post("/v1/events", {"events": [ahead]}).json()["accepted"] == 1


def test_no_events_are_nothing_to_store_and_too_many_are_refused(client: Client) -> None:
    assert client.post("/v1/events", {"events": []}).json() == {"accepted": 0, "duplicates": 0, "rejected": []}
    small = {"user_id": "a", "event_type": "v", "timestamp": 10**12}
    assert client.post("/v1/events", {"events": [small] * 1024}).json()["accepted"] == 1024
    assert client.post("/v1/events", {"events": [small] * 1025}).status_code == 422


@pytest.mark.parametrize("user", ["ann", "a/b", "a//b/", "/", "a/../b", "100%", "a?b#c", "ключ", "🧦", "a b", "%2F"])
def test_a_user_is_found_and_deleted_under_any_id(client: Client, user: str) -> None:
    client.post("/v1/events", {"events": [event("item-1", user, value=2.5, properties={"channel": "web"})]})
    path = f"/v1/users/{quote(user, safe='')}"
    found = client.get(path).json()
    assert (found["user_id"], found["num_events"], found["history_seq"]) == (user, 1, 1)
    assert found["events"][0]["timestamp"] == 1_746_100_800_000
    assert found["events"][0]["properties"] == {"channel": "web"}
    assert [(i["item_id"], i["count"], i["event_types"]) for i in found["items"]] == [("item-1", 1, ["view"])]
    assert client.request("DELETE", path).json() == {"user_id": user, "deleted_events": 1}
    assert client.get(path).json()["events"] == []


def test_of_a_user_who_is_deleted_the_model_keeps_nothing(client: Client) -> None:
    client.post("/v1/events", {"events": [event("item-1", "ann")]})
    client.recommend(user_id="ann")
    users = client.app.state.service.release.users
    assert ("user", "ann") in users
    client.request("DELETE", "/v1/users/ann")
    assert ("user", "ann") not in users


def test_an_unknown_user_has_an_empty_history(client: Client) -> None:
    assert client.get("/v1/users/nobody").json() == {
        "user_id": "nobody",
        "num_events": 0,
        "history_seq": 0,
        "events": [],
        "items": [],
    }


@pytest.mark.parametrize("path", ["/v1/users/", "/v1/users/" + "a" * 129, "/v1/users/a%00b"])
def test_what_is_no_user_id_is_refused(client: Client, path: str) -> None:
    for method in ("GET", "DELETE"):
        response = client.request(method, path)
        assert (response.status_code, response.json()["error"]["field"]) == (422, "user_id")


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
    service = service_of(client)
    gate = threading.Event()
    blocker = client.run(start(service, gate))
    response = client.post("/v1/recommend", {"timeout_ms": 30})
    gate.set()
    client.run(blocker)
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert 'twotower_deadline_exceeded_total{stage="engine"} 1.0' in client.get("/metrics").text


async def start(service: Service, gate: threading.Event) -> Any:
    """Keep the engine busy until the gate opens; returns once it is."""
    running = threading.Event()

    def block() -> bool:
        running.set()
        return gate.wait()

    task = asyncio.ensure_future(service.engine.submit(block, time.monotonic() + 30))
    await asyncio.to_thread(running.wait)
    return task


def service_of(client: Client) -> Service:
    service: Service = client.app.state.service
    return service


def test_more_requests_than_may_wait_are_refused_with_a_time_to_come_back(connect: Callable[..., Client]) -> None:
    client = connect(max_queued=1)
    gate = threading.Event()
    blocker = client.run(start(service_of(client), gate))

    async def both() -> list[int]:
        calls = [client.http.post("/v1/recommend", json={"timeout_ms": 200}) for _ in range(2)]
        answers = await asyncio.gather(*calls)
        assert all(a.headers["retry-after"] == "1" for a in answers if a.status_code == 503)
        return sorted(a.status_code for a in answers)

    assert client.run(both()) == [503, 504]  # one waits and runs out of time, one finds no place to wait
    gate.set()
    client.run(blocker)
    assert 'twotower_admission_rejected_total{reason="queue_full"} 1.0' in client.get("/metrics").text


def test_a_stuck_engine_is_neither_live_nor_ready(connect: Callable[..., Client]) -> None:
    client = connect(heartbeat_limit_s=1.0)
    assert client.get("/livez").json()["status"] == "ok"
    assert client.get("/readyz").status_code == 200
    gate = threading.Event()
    blocker = client.run(start(service_of(client), gate))
    time.sleep(1.3)
    for path in ("/livez", "/readyz"):
        assert client.get(path).status_code == 503
    gate.set()
    client.run(blocker)


def test_releases_are_listed_with_the_current_one_marked(client: Client, release: LoadedRelease) -> None:
    answer = client.get("/v1/releases").json()
    assert answer["serving"] == release.id
    assert answer["releases"] == [
        {
            "id": release.id,
            "current": True,
            "bundle": release.info.bundle_id,
            "vector_space_id": release.info.vector_space_id,
            "items": 400,
            "problem": None,
        }
    ]


@pytest.mark.parametrize("path", ["/recommend", "/similar", "/events"])
def test_an_alias_answers_as_the_route_it_stands_for(client: Client, path: str) -> None:
    moment = {"timestamp": "2026-11-22T10:00:00Z"}  # scores follow the clock
    body = {"/recommend": moment, "/similar": {"item_id": "item-1"}, "/events": {"events": []}}[path]
    short, full = client.post(path, body), client.post("/v1" + path, body)
    assert short.status_code == full.status_code < 300
    assert short.json().get("items") == full.json().get("items")


def test_similar_answers_for_an_item_and_for_raw_features(client: Client, release: LoadedRelease) -> None:
    by_id = client.post("/v1/similar", {"item_id": "item-1", "num_results": 3, "include_metadata": ["title"]}).json()
    by_features = client.post("/v1/similar", {"item": {"title": "fresh bread", "price": 2}, "num_results": 3}).json()
    for answer in (by_id, by_features):
        assert len(answer["items"]) == 3
        assert answer["release"] == release.id
    assert "item-1" not in [i["item_id"] for i in by_id["items"]]
    assert client.post("/v1/similar", {"item_id": "gone"}).status_code == 404
    assert client.post("/v1/similar", {}).status_code == 422


def test_the_root_leads_to_the_documentation(client: Client) -> None:
    response = client.get("/")
    assert (response.status_code, response.headers["location"]) == (307, "/docs")
    assert "swagger" in client.get("/docs").text


def test_timestamp_is_the_moment_the_prediction_is_for(client: Client, histories: dict[str, UserHistory]) -> None:
    now, later = client.recommend(timestamp="2025-05-01T00:00:00Z"), client.recommend(timestamp=1_761_955_200_000)
    assert now["items"][0]["score"] != later["items"][0]["score"]
    assert now["items"] == client.recommend(timestamp="2025-05-01T02:00:00+02:00")["items"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
event_like = st.fixed_dictionaries(
    {},
    optional={
        "user_id": st.text(max_size=5) | json_values,
        "item_id": st.sampled_from(["item-1", "item-2", "gone"]) | json_values,
        "event_type": st.text(max_size=5) | json_values,
        "event_id": st.text(max_size=3),
        "timestamp": st.integers(315_532_800_000, 4_102_444_800_000)
        | st.datetimes().map(lambda d: d.isoformat() + "Z")
        | json_values,
        "value": st.floats(allow_nan=False, allow_infinity=False) | json_values,
        "properties": st.dictionaries(st.sampled_from(["price_paid", "channel", "x"]), json_values, max_size=3) | json_values,
        "position": json_values,
    },
)
attributes = st.sampled_from(["price", "title", "tags", "released", "department", "image", "item_id", "x", "None", "3", "'a'"])
operators = st.sampled_from([" < ", " == ", " in ", " and ", " or ", " != ", " not in ", "not ", "(", ")", ", ", "[", "]", "-"])
filters = st.lists(attributes | operators, max_size=8).map("".join) | st.text(max_size=40)
promotion_like = st.fixed_dictionaries(
    {"name": st.text(max_size=3), "filter": filters | st.just("price < 2")},
    optional={"position": st.integers(0, 12) | json_values, "percent": st.floats(0, 100) | json_values},
)
request_like = st.fixed_dictionaries(
    {},
    optional={
        "user_id": st.text(min_size=1, max_size=5) | json_values,
        "session_id": json_values,
        "events": st.lists(event_like, max_size=4) | json_values,
        "history_mode": st.sampled_from(["append", "replace", "stored"]) | json_values,
        "num_results": st.integers(-1, 501) | json_values,
        "target_event_type": st.text(max_size=5) | json_values,
        "timestamp": st.integers(315_532_800_000, 4_102_444_800_000) | json_values,
        "filter": filters | json_values,
        "exclude_item_ids": st.lists(st.sampled_from(["item-1", "gone"]), max_size=3) | json_values,
        "exclude_seen": st.booleans() | json_values,
        "exclude_event_types": st.lists(st.text(max_size=3), max_size=3) | json_values,
        "candidate_item_ids": st.lists(st.sampled_from(["item-1", "gone"]), max_size=3) | json_values,
        "include_metadata": st.lists(st.sampled_from(["title", "image", "released"]), max_size=3) | json_values,
        "validate_only": st.booleans() | json_values,
        "promotions": st.lists(promotion_like, max_size=3) | json_values,
        "diversity": st.floats(-0.1, 1.1) | json_values,
        "explain": st.booleans() | json_values,
        "page_token": st.text(max_size=20) | json_values,
        "item_id": st.sampled_from(["item-1", "gone"]) | json_values,
        "item": st.dictionaries(st.sampled_from(["title", "price", "tags", "released", "image", "x"]), json_values, max_size=4),
    },
)


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/similar", "/v1/score"])
@settings(max_examples=200, deadline=None, derandomize=True)
@given(body=st.one_of(request_like, json_values))
def test_no_json_body_gives_a_server_error(shared_client: Client, path: str, body: Any) -> None:
    assert shared_client.post(path, body).status_code in (200, 404, 422)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(body=st.fixed_dictionaries({"events": st.lists(event_like, max_size=4)}) | json_values)
def test_no_event_gives_a_server_error_and_every_event_is_accounted_for(shared_client: Client, body: Any) -> None:
    response = shared_client.post("/v1/events", body)
    assert response.status_code in (202, 422)
    if response.status_code == 202:
        answer = response.json()
        assert answer["accepted"] + answer["duplicates"] + len(answer["rejected"]) == len(body["events"])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(body=st.binary(max_size=60))
def test_no_bytes_give_a_server_error(shared_client: Client, body: bytes) -> None:
    for path in ("/v1/recommend", "/v1/recommend/batch", "/v1/similar", "/v1/score", "/v1/events"):
        assert shared_client.post_raw(path, body).status_code in (200, 400, 422)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(price=st.floats(0, 6), field=st.sampled_from(["price", "released", "title", "tags"]))
def test_an_event_with_every_field_can_be_read_back(shared_client: Client, price: float, field: str) -> None:
    body = event(user=f"u-{price}-{field}", properties={"price_paid": price, field: "x"}, position=3, value=price)
    assert shared_client.post("/v1/events", {"events": [body]}).json()["accepted"] == 1
    stored = shared_client.get(f"/v1/users/u-{price}-{field}").json()["events"][-1]
    assert (stored["properties"], stored["position"], stored["value"]) == (body["properties"], 3, price)
