"""GET /v1/map and POST /v1/map/points over HTTP."""

import gzip
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.release.loaded import LoadedRelease
from service.release.served_map import serve_map
from service.settings import Settings
from tests.service.conftest import Client, MemoryHistory
from twotower.artefacts.item_changes import DeltaStore
from twotower.maps.item_map import ItemMap, MapInfo

ROWS = (7, 300, 12)  # of the items at the points 0, 1 and 2; the other 397 are not on the map


@pytest.fixture(scope="module")
def mapped(release: LoadedRelease) -> LoadedRelease:
    places_M2 = np.array([[1, 2], [300, 4], [60_000, 5]], np.uint16)
    drawn = ItemMap(np.array(ROWS, np.uint32), places_M2, np.full(3, 255, np.uint8), MapInfo(num_items=400, num_placed=0))
    return replace(release, item_map=serve_map(drawn, release.id, 400))


@pytest.fixture
def shop(settings: Settings, mapped: LoadedRelease, tmp_path: Path) -> Iterator[Client]:
    with Client(settings, mapped, MemoryHistory(), DeltaStore(tmp_path / "delta.db")) as client:
        yield client


def get(shop: Client, **headers: str) -> httpx.Response:
    return shop.request("GET", "/v1/map", headers={name.replace("_", "-"): value for name, value in headers.items()})


def named(points: list[dict[str, object]]) -> list[tuple[object, object]]:
    return [(found["point"], found["item_id"]) for found in points]


def test_the_map_comes_compressed_to_those_who_take_it(shop: Client, mapped: LoadedRelease) -> None:
    assert mapped.item_map
    plain, small = get(shop, accept_encoding="identity"), get(shop, accept_encoding="br, gzip")
    assert plain.content == small.content == mapped.item_map.body
    assert "content-encoding" not in plain.headers
    assert small.headers["content-encoding"] == "gzip"
    assert int(small.headers["content-length"]) == len(gzip.compress(mapped.item_map.body, mtime=0))
    assert plain.headers["vary"] == small.headers["vary"] == "accept-encoding"
    assert plain.headers["content-type"] == "application/vnd.twotower.map"


def test_a_map_that_the_client_has_is_not_sent_again(shop: Client, mapped: LoadedRelease) -> None:
    tag = get(shop).headers["etag"]
    assert tag == f'W/"{mapped.id}"'
    again = get(shop, if_none_match=f'"release-000000000000", {tag}')
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert get(shop, if_none_match='W/"release-000000000000"').status_code == 200


def test_a_release_without_a_map_says_how_to_get_one(client: Client, release: LoadedRelease) -> None:
    for response in (client.get("/v1/map"), client.post("/v1/map/points", {"points": [0]})):
        assert response.status_code == 404
        error = response.json()["error"]
        assert error["code"] == "not_found"
        assert error["message"] == f"{release.id} has no map of the catalogue: build one with `twotower embed --map`"


def test_points_are_told_with_their_items_and_items_with_their_points(shop: Client, mapped: LoadedRelease) -> None:
    ids = [mapped.item_ids[row] for row in ROWS]
    answer = shop.post("/v1/map/points", {"points": [2, 0], "item_ids": [ids[1], ids[0]]}).json()
    assert named(answer["points"]) == [(2, ids[2]), (0, ids[0]), (1, ids[1])]
    assert answer["points"][0]["title"] == mapped.items.column("title")[ROWS[2]].as_py()
    assert answer["release"] == mapped.id


def test_what_is_not_on_the_map_is_left_out(shop: Client, mapped: LoadedRelease) -> None:
    answer = shop.post("/v1/map/points", {"points": [3, 10**12], "item_ids": ["unheard of", mapped.item_ids[0]]}).json()
    assert answer["points"] == []


def test_items_that_changed_by_day_are_told_as_they_are_now(shop: Client, mapped: LoadedRelease) -> None:
    """A deleted item has no point any more, a replaced one keeps its point, and a new one gets its point by night."""
    first, second, third = (mapped.item_ids[row] for row in ROWS)
    shop.delete_items(first)
    shop.put_items({"item_id": second, "title": "blue olives"}, {"item_id": "new", "title": "red olives"})
    answer = shop.post("/v1/map/points", {"points": [0, 1, 2], "item_ids": [first, "new"]}).json()
    assert named(answer["points"]) == [(1, second), (2, third)]
    assert answer["points"][0]["title"] == "blue olives"


@pytest.mark.parametrize(
    "body", [{"points": [-1]}, {"points": ["0"]}, {"points": [0] * 501}, {"item_ids": ["x"] * 501}, {"at": 1}]
)
def test_a_bad_body_is_refused(shop: Client, body: dict[str, object]) -> None:
    response = shop.post("/v1/map/points", body)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_request")
