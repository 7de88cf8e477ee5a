"""POST /v1/score and POST /v1/similar over HTTP."""

import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.release.loaded import LoadedRelease
from tests.service.conftest import Client, TwoReleases, UnreachableHistory
from tests.service.routes.bodies import event, json_values, request_like
from tests.service.routes.busy import keep_busy
from tests.service.routes.conftest import Shop


def test_similar_answers_for_an_item_and_for_raw_features(client: Client, release: LoadedRelease) -> None:
    by_id = client.post("/v1/similar", {"item_id": "item-1", "num_results": 3, "include_metadata": ["title"]}).json()
    by_features = client.post("/v1/similar", {"item": {"title": "fresh bread", "price": 2}, "num_results": 3}).json()
    for answer in (by_id, by_features):
        assert len(answer["items"]) == 3
        assert answer["release"] == release.id
    assert "item-1" not in [i["item_id"] for i in by_id["items"]]
    assert client.post("/v1/similar", {"item_id": "gone"}).status_code == 404
    assert client.post("/v1/similar", {}).status_code == 422


@pytest.mark.parametrize("path", ["/v1/similar", "/v1/score"])
@settings(max_examples=200, deadline=None, derandomize=True)
@given(body=st.one_of(request_like, json_values))
def test_no_json_body_gives_a_server_error(shared_client: Client, path: str, body: Any) -> None:
    assert shared_client.post(path, body).status_code in (200, 404, 422)


def test_a_score_names_the_variant_and_the_release_that_the_plan_deals_to_its_user(
    shop: Shop, two: TwoReleases, half_and_half: Path
) -> None:
    client = shop(two.second, half_and_half)
    dealt = {}
    for number in range(40):
        body = {"user_id": str(number), "candidate_item_ids": []}
        scored, recommended = client.post("/v1/score", body).json(), client.recommend(user_id=str(number))
        assert (scored["variant"], scored["release"]) == (recommended["variant"], recommended["release"])
        similar = client.post("/v1/similar", {"user_id": str(number), "item": {}}).json()
        assert similar["release"] == scored["release"]
        dealt[scored["variant"]] = scored["release"]
    assert dealt == {"new": two.second, "old": two.first}


def test_without_a_plan_the_variant_is_the_default(client: Client) -> None:
    assert client.post("/v1/score", {"candidate_item_ids": []}).json()["variant"] == "default"


BODIES: dict[str, dict[str, Any]] = {"/v1/score": {"candidate_item_ids": ["item-1"]}, "/v1/similar": {"item_id": "item-1"}}


@pytest.mark.parametrize("path", BODIES)
def test_stored_events_are_read_and_the_state_of_the_user_is_kept(client: Client, path: str) -> None:
    user = uuid.uuid4().hex  # the release, and what is kept of users, is shared by all tests
    cold = client.post(path, BODIES[path] | {"user_id": user, "timestamp": "2025-05-02T00:00:00Z"}).json()
    client.post("/v1/events", {"events": [event("item-3", user)]})
    known = client.post(path, BODIES[path] | {"user_id": user, "timestamp": "2025-05-02T00:00:00Z"}).json()
    assert cold["items"] != known["items"]
    assert ("user", user) in client.context.served.current.users


@pytest.mark.parametrize("path", BODIES)
def test_without_its_history_a_user_is_answered_and_the_answer_says_so_unless_the_request_is_strict(
    connect: Callable[..., Client], path: str
) -> None:
    client = connect(UnreachableHistory())
    assert client.post(path, BODIES[path] | {"user_id": "ann"}).json()["degraded"] == ["history_unavailable"]
    refused = client.post(path, BODIES[path] | {"user_id": "ann", "strict": True})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "history_unavailable")


@pytest.mark.parametrize("path", BODIES)
def test_a_request_that_waits_past_its_time_is_refused(client: Client, path: str) -> None:
    gate = threading.Event()
    blocker = client.run(keep_busy(client, gate))
    response = client.post(path, BODIES[path] | {"timeout_ms": 30})
    gate.set()
    client.run(blocker)
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")


def test_items_that_the_catalogue_does_not_know_are_counted(client: Client) -> None:
    answer = client.post("/v1/score", {"candidate_item_ids": ["gone", "lost"]}).json()
    assert (answer["items"], answer["missing_item_ids"]) == ([], ["gone", "lost"])
    sample = client.context.metrics.registry.get_sample_value
    assert (sample("twotower_unknown_items_total"), sample("twotower_empty_results_total")) == (2, 1)
