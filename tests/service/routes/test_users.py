"""GET and DELETE /v1/users/{id} over HTTP."""

import time
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import quote

import pytest

from service.api.schemas import RecommendRequest
from service.rollout.served import Chosen
from service.routes.asking import ask_release
from tests.service.conftest import Client, MemoryHistory, UnreachableHistory
from tests.service.routes.bodies import event


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
    users = client.context.served.current.users
    assert ("user", "ann") in users
    assert len(client.context.follow_ups) == 1
    client.request("DELETE", "/v1/users/ann")
    assert ("user", "ann") not in users
    assert len(client.context.follow_ups) == 0


def test_of_a_user_who_is_deleted_nothing_is_kept_for_releases_beside_the_served_one(client: Client) -> None:
    client.post("/v1/events", {"events": [event("item-1", "ann")]})
    client.recommend(user_id="ann")
    served = client.context.served.current
    aside = replace(served)  # as a catalogue that is ranked with it, or the release before it
    chosen = Chosen(aside, "current")
    request = RecommendRequest(user_id="ann")
    client.run(ask_release(client.context, chosen, request, time.monotonic(), client.context.calls.recommend))
    assert ("user", "ann") in aside.users
    client.request("DELETE", "/v1/users/ann")
    assert ("user", "ann") not in aside.users
    assert ("user", "ann") not in served.users


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


def test_users_are_listed_in_pages(client: Client) -> None:
    client.post("/v1/events", {"events": [event("item-1", user) for user in ("ann", "bob", "ann", "a/b")]})
    first = client.get("/v1/users?limit=2").json()
    assert first == {"users": [{"user_id": "a/b", "num_events": 1}, {"user_id": "ann", "num_events": 2}], "more": True}
    assert client.get("/v1/users?limit=2&after=ann").json() == {"users": [{"user_id": "bob", "num_events": 1}], "more": False}
    assert [u["user_id"] for u in client.get("/v1/users?prefix=an").json()["users"]] == ["ann"]


def test_a_store_that_cannot_list_its_users_says_so(connect: Callable[..., Client]) -> None:
    class Unlisted(MemoryHistory):
        async def list_users(self, after: str, prefix: str, limit: int) -> list[tuple[str, int]] | None:
            return None

    assert connect(Unlisted()).get("/v1/users").json() == {"users": None, "more": False}


def test_a_store_that_does_not_answer_is_a_503(connect: Callable[..., Client]) -> None:
    refused = connect(UnreachableHistory()).get("/v1/users")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "history_unavailable")
