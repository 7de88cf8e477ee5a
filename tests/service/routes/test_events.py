"""POST /v1/events over HTTP."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.errors import ApiError
from service.api.schemas import EventsBody
from service.release.loaded import LoadedRelease
from service.routes.events import decode_events
from service.settings import Settings
from tests.service.conftest import Client, MemoryHistory
from tests.service.routes.bodies import event, event_like, json_values


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


def test_when_every_event_is_rejected_the_status_says_so(client: Client) -> None:
    response = client.post("/v1/events", {"events": [{"event_type": "view"}, event(user="")]})
    assert response.status_code == 422
    answer = response.json()
    assert (answer["accepted"], answer["duplicates"], [r["index"] for r in answer["rejected"]]) == (0, 0, [0, 1])
    assert answer["error"]["code"] == "invalid_request"
    assert answer["error"]["message"].startswith("all 2 events were rejected; the first: ")
    assert answer["error"]["request_id"] == response.headers["x-request-id"]
    sent_twice = {"events": [event(event_id="1")]}
    assert [client.post("/v1/events", sent_twice).status_code for _ in range(2)] == [202, 202], "a duplicate is stored"


@pytest.mark.parametrize("text", ["cut \\ud83d", "cut \\ud83d here", "\\ude00 cut"])
def test_an_event_with_half_of_an_emoji_is_rejected_alone(client: Client, text: str) -> None:
    good = json.dumps(event(user=f"u{len(text)}"))
    bad = good.replace('"item-1"', f'"{text}"')
    answer = client.post_raw("/v1/events", f'{{"events":[{good},{bad},{good}]}}'.encode()).json()
    assert (answer["accepted"], [r["index"] for r in answer["rejected"]]) == (2, [1])
    assert "half of a character" in answer["rejected"][0]["reason"]


def test_events_as_large_as_their_fields_usually_are_fit_into_one_body(client: Client) -> None:
    full = event("i" * 128, user="u" * 128, event_id="e" * 128, session_id="s" * 128, properties={"title": "t" * 1024, "n": 1})
    response = client.post("/v1/events", {"events": [full | {"event_id": f"{n:0128}"} for n in range(1024)]})
    assert (response.status_code, response.json()["accepted"]) == (202, 1024)


def test_a_beacon_is_taken_from_pages_of_listed_origins_only(release: LoadedRelease, tiny_store: Path, tmp_path: Path) -> None:
    settings = Settings(store=tiny_store, cors_origins="https://shop.example")
    body = json.dumps({"events": [event()]}).encode()
    with Client(settings, release, MemoryHistory()) as client:
        sent = {"content-type": "text/plain;charset=UTF-8"}
        mine, other = ({"origin": f"https://{host}.example"} for host in ("shop", "other"))
        assert client.post_raw("/v1/events", body, **sent, **mine).status_code == 202
        assert client.post_raw("/v1/events", body, **sent, **other).status_code == 415
        assert client.post_raw("/v1/events", body, **sent).status_code == 415
        assert client.post_raw("/v1/recommend", b"{}", **sent, **mine).status_code == 415, "a beacon gets no answer"
        preflight = client.request("OPTIONS", "/v1/recommend", headers=mine | {"access-control-request-method": "POST"})
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, mine["origin"])
        for path, bodies in (("/v1/recommend", b"{}"), ("/v1/similar", b"{}"), ("/v1/score", b"no")):
            answer = client.post_raw(path, bodies, **mine)
            assert answer.headers["access-control-allow-origin"] == mine["origin"], "of an error too"
            assert "access-control-allow-origin" not in client.post_raw(path, bodies, **other).headers


def test_an_event_within_a_day_of_our_clock_is_stored(client: Client) -> None:
    ahead = event(timestamp=int(time.time() * 1000) + 23 * 3_600_000)
    assert client.post("/v1/events", {"events": [ahead]}).json()["accepted"] == 1


def test_no_events_are_nothing_to_store_and_too_many_are_refused(client: Client) -> None:
    assert client.post("/v1/events", {"events": []}).json() == {"accepted": 0, "duplicates": 0, "rejected": []}
    small = {"user_id": "a", "event_type": "v", "timestamp": 10**12}
    assert client.post("/v1/events", {"events": [small] * 1024}).json()["accepted"] == 1024
    assert client.post("/v1/events", {"events": [small] * 1025}).status_code == 422


@settings(max_examples=200, deadline=None, derandomize=True)
@given(body=st.fixed_dictionaries({"events": st.lists(event_like, max_size=4)}) | json_values)
def test_no_event_gives_a_server_error_and_every_event_is_accounted_for(shared_client: Client, body: Any) -> None:
    response = shared_client.post("/v1/events", body)
    assert response.status_code in (202, 422)
    answer = response.json()
    if response.status_code == 202 or "rejected" in answer:
        assert answer["accepted"] + answer["duplicates"] + len(answer["rejected"]) == len(body["events"])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(price=st.floats(0, 6), field=st.sampled_from(["price", "released", "title", "tags"]))
def test_an_event_with_every_field_can_be_read_back(shared_client: Client, price: float, field: str) -> None:
    body = event(user=f"u-{price}-{field}", properties={"price_paid": price, field: "x"}, position=3, value=price)
    assert shared_client.post("/v1/events", {"events": [body]}).json()["accepted"] == 1
    stored = shared_client.get(f"/v1/users/u-{price}-{field}").json()["events"][-1]
    assert (stored["properties"], stored["position"], stored["value"]) == (body["properties"], 3, price)


def test_a_search_is_stored_once_shown_and_deleted_with_its_user(client: Client) -> None:
    search = {"user_id": "sue", "event_type": "search", "query": "dark rye bread", "timestamp": 10**12, "event_id": "s1"}
    answer = client.post("/v1/events", {"events": [search, search, search | {"item_id": "item-1", "event_id": "s2"}]}).json()
    assert (answer["accepted"], answer["duplicates"]) == (1, 1)
    assert answer["rejected"][0]["reason"].startswith("query: a search has no item_id")
    user = client.get("/v1/users/sue").json()
    assert (user["events"][0]["query"], user["events"][0]["item_id"], user["items"]) == ("dark rye bread", None, [])
    assert client.request("DELETE", "/v1/users/sue").json()["deleted_events"] == 1
    assert client.get("/v1/users/sue").json()["events"] == []


def test_events_are_counted_by_what_became_of_them(client: Client) -> None:
    one = event(event_id="1")
    client.post("/v1/events", {"events": [one, one, event("item-2"), {"event_type": "view"}]})
    sample = client.context.metrics.registry.get_sample_value
    counted = {name: sample("twotower_events_total", {"outcome": name}) for name in ("accepted", "duplicate", "rejected")}
    assert counted == {"accepted": 2, "duplicate": 1, "rejected": 1}


def test_a_body_is_decoded_though_its_events_are_not_yet() -> None:
    body = decode_events(b'{"events": [1, {"x": []}]}')
    assert isinstance(body, EventsBody)
    assert [bytes(raw) for raw in body.events] == [b"1", b'{"x": []}']


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"{", "malformed_json"), (b"{}", "invalid_request"), (b'{"events": 1}', "invalid_request")],
)
def test_a_body_without_events_is_refused(body: bytes, code: str) -> None:
    with pytest.raises(ApiError) as refused:
        decode_events(body)
    assert refused.value.code == code
