"""Operators move the pointer over HTTP; the server follows it."""

from pathlib import Path

import pytest

from service.release.loaded import LoadedRelease
from tests.service.conftest import Client, TwoReleases
from tests.service.routes.conftest import Shop
from twotower.artefacts.release import VECTORS, Candidate, open_store, propose, read_pointer, release_path


def test_a_refresh_follows_the_pointer(shop: Shop, two: TwoReleases) -> None:
    client = shop(two.first)
    assert client.recommend()["release"] == two.first
    assert client.post("/v1/admin/refresh", {}).json() == {"outcome": "swapped", "serving": two.second}
    assert client.recommend()["release"] == two.second
    assert client.post("/v1/admin/refresh", {}).json() == {"outcome": "unchanged", "serving": two.second}


def test_a_rollback_moves_the_pointer_for_all_servers(shop: Shop, two: TwoReleases) -> None:
    client = shop(two.second)
    moved = client.post("/v1/admin/rollback", {})
    assert (moved.status_code, moved.json()) == (200, {"sequence": 3, "release": two.first, "previous": None})
    assert read_pointer(two.store).release == two.first
    client.post("/v1/admin/refresh", {})
    assert client.recommend()["release"] == two.first
    refused = client.post("/v1/admin/rollback", {})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert str(two.store) not in refused.text


def test_a_web_page_cannot_roll_back_unasked(shop: Shop, two: TwoReleases) -> None:
    assert shop(two.second).request("POST", "/v1/admin/rollback").status_code == 415
    assert read_pointer(two.store).sequence == 2


def test_an_activation_names_the_pointer_that_it_wrote(shop: Shop, two: TwoReleases) -> None:
    client = shop(two.second)
    moved = client.post("/v1/admin/activate", {"release": two.first})
    assert moved.json() == {"sequence": 3, "release": two.first, "previous": two.second}


@pytest.mark.parametrize("release", ["release-000000000000", "../store", "current"])
def test_a_release_that_the_store_does_not_hold_cannot_be_activated(shop: Shop, two: TwoReleases, release: str) -> None:
    refused = shop(two.first).post("/v1/admin/activate", {"release": release})
    assert (refused.status_code, refused.json()["error"]["field"]) == (404, "release")
    assert read_pointer(two.store).sequence == 2


def test_a_damaged_release_cannot_be_activated(shop: Shop, two: TwoReleases) -> None:
    client = shop(two.second)
    (release_path(two.store, two.first) / VECTORS).write_bytes(b"rotten")
    refused = client.post("/v1/admin/activate", {"release": two.first})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert str(two.store) not in refused.text
    assert read_pointer(two.store).release == two.second


def test_the_list_of_releases_says_what_became_of_each(shop: Shop, two: TwoReleases) -> None:
    client = shop(two.first)
    listed = client.get("/v1/releases").json()
    assert (listed["serving"], listed["previous"], listed["canary"], listed["quarantined"]) == (two.first, None, None, {})
    assert listed["cpu_dtype"] == "fp32"
    assert [(entry["id"], entry["current"]) for entry in listed["releases"]] == [(two.first, False), (two.second, True)]
    vectors = release_path(two.store, two.second) / VECTORS
    content = vectors.read_bytes()
    vectors.write_bytes(b"rotten")
    assert client.post("/v1/admin/refresh", {}).json() == {"outcome": "refused", "serving": two.first}
    assert client.get("/v1/releases").json()["quarantined"] == {two.second: "integrity"}
    vectors.write_bytes(content)
    client.post("/v1/admin/activate", {"release": two.second})
    client.post("/v1/admin/refresh", {})
    listed = client.get("/v1/releases").json()
    assert (listed["serving"], listed["previous"], listed["quarantined"]) == (two.second, two.first, {})


def test_variants_answer_under_their_names(shop: Shop, two: TwoReleases, half_and_half: Path) -> None:
    client = shop(two.second, half_and_half)
    answers = [client.recommend(user_id=str(number)) for number in range(40)]
    assert {(a["variant"], a["release"]) for a in answers} == {("new", two.second), ("old", two.first)}
    again = [client.recommend(user_id=str(number)) for number in range(40)]
    assert [a["variant"] for a in answers] == [a["variant"] for a in again]
    assert 'twotower_variant_requests_total{outcome="answered",variant="old"}' in client.get("/metrics").text


def test_a_new_release_on_trial_answers_some_users_as_the_canary(shop: Shop, two: TwoReleases, tmp_path: Path) -> None:
    plan = tmp_path / "variants.toml"
    plan.write_text("[canary]\npercent = 50\nseconds = 3600\n")
    client = shop(two.first, plan)
    assert client.post("/v1/admin/refresh", {}).json() == {"outcome": "trial", "serving": two.first}
    assert client.get("/v1/releases").json()["canary"] == two.second
    answers = [client.recommend(user_id=str(number)) for number in range(40)]
    assert {(a["variant"], a["release"]) for a in answers} == {("default", two.first), ("canary", two.second)}


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


def test_the_trial_of_a_proposed_release_is_told_in_numbers(shop: Shop, two: TwoReleases) -> None:
    client = shop(two.second)
    propose(open_store(two.store), Candidate(release=two.first, percent=50, seconds=3600), None)
    assert client.post("/v1/admin/refresh", {}).json() == {"outcome": "trial", "serving": two.second}
    answers = [client.recommend(user_id=str(number)) for number in range(40)]
    on_trial = sum(answer["variant"] == "canary" for answer in answers)
    client.recommend(user_id="1", filter="price < 0")
    trial = client.get("/v1/releases").json()["trial"]
    assert (trial["release"], trial["passed"], trial["percent"], trial["seconds"]) == (two.first, False, 50, 3600)
    assert trial["new"]["requests"] + trial["current"]["requests"] == 41
    assert trial["new"]["requests"] - on_trial in (0, 1)
    assert trial["new"]["degraded"] + trial["current"]["degraded"] == 1
    assert (trial["new"]["failed"], trial["new"]["p99_ms"] > 0) == (0, True)
