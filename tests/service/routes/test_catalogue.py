"""GET /v1/catalogue and GET /v1/items over HTTP."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service.release.loaded import LoadedRelease
from service.settings import Settings
from tests.service.conftest import Client, MemoryHistory
from twotower.artefacts.item_changes import DeltaStore


def test_the_catalogue_tells_its_features_and_groups(client: Client, release: LoadedRelease) -> None:
    told = client.get("/v1/catalogue").json()
    assert (told["release"], told["items"], told["title"], told["group"]) == (release.id, 400, "title", "department")
    assert [group["items"] for group in told["groups"]] == sorted((g["items"] for g in told["groups"]), reverse=True)
    departments = release.items.column("department")
    assert sum(group["items"] for group in told["groups"]) == len(departments) - departments.null_count
    assert {"name": "department", "kind": "categorical", "values": 4} in told["features"]
    assert told["popularity_as_of"] == release.info.popularity_as_of_ms


def test_items_are_found_by_words_with_their_features(client: Client, release: LoadedRelease) -> None:
    title = next(title for title in release.items.column("title").to_pylist() if title)
    told = client.request("GET", "/v1/items", params={"words": title.upper(), "limit": 100}).json()
    assert {item["metadata"]["title"] for item in told["items"]} == {title}
    assert told["matching"] == len(told["items"]) > 0


def test_items_of_a_group_alone(client: Client) -> None:
    told = client.request("GET", "/v1/items", params={"group": "aisle 1", "limit": 3}).json()
    assert {item["metadata"]["department"] for item in told["items"]} == {"aisle 1"}
    assert told["matching"] > len(told["items"]) == 3


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=many", "limit"),
        (f"words={'a' * 101}", "words"),
        ("wrods=tea", "wrods"),
    ],
)
def test_a_query_that_cannot_be_used_is_refused_by_name(client: Client, query: str, field: str) -> None:
    refused = client.get(f"/v1/items?{query}")
    assert (refused.status_code, refused.json()["error"]["code"], refused.json()["error"]["field"]) == (
        422,
        "invalid_request",
        field,
    )


def test_an_item_that_was_put_is_found_and_one_that_was_deleted_is_not(
    settings: Settings, release: LoadedRelease, tmp_path: Path
) -> None:
    with Client(settings, release, MemoryHistory(), DeltaStore(tmp_path / "delta.db")) as client:
        client.put_items({"item_id": "new-1", "title": "Zebra lamp", "department": "aisle 1"})
        client.delete_items("item-0")
        found = client.get("/v1/items?words=zebra").json()
        assert [item["item_id"] for item in found["items"]] == ["new-1"]
        assert client.get("/v1/catalogue").json()["items"] == 400
        assert client.get("/v1/items?words=item-0").json()["matching"] == 0


def test_a_search_that_takes_too_long_ends_with_the_time_of_the_server(connect: Callable[..., Client]) -> None:
    client = connect(request_timeout_s=1e-9)
    refused = client.get("/v1/items?words=tea")
    assert (refused.status_code, refused.json()["error"]["code"]) == (504, "deadline_exceeded")
