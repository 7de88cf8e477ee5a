"""GET, PUT and DELETE /v1/items over HTTP; what becomes of the items is tested with service.release.changes."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from service.release.loaded import LoadedRelease
from service.settings import Settings
from tests.service.conftest import Client, MemoryHistory
from twotower.artefacts.item_changes import DeltaStore


@pytest.fixture
def changing(settings: Settings, release: LoadedRelease, tmp_path: Path) -> Iterator[Client]:
    with Client(settings, release, MemoryHistory(), DeltaStore(tmp_path / "delta.db")) as client:
        yield client


@pytest.mark.parametrize("item_id", ["new", "a/b", "/", "a\nb", "100%", "a?b"])
def test_an_item_is_found_under_any_id(changing: Client, release: LoadedRelease, item_id: str) -> None:
    path = f"/v1/items/{quote(item_id, safe='')}"
    assert changing.get(path).status_code == 404
    changing.put_items({"item_id": item_id, "title": "blue olives"})
    found = changing.get(path).json()
    assert (found["item_id"], found["source"], found["release"]) == (item_id, "delta", release.id)
    assert found["metadata"]["title"] == "blue olives"
    changing.delete_items(item_id)
    assert changing.get(path).status_code == 404


def test_an_item_of_the_release_has_its_features(client: Client, release: LoadedRelease) -> None:
    found = client.get("/v1/items/item-7").json()
    assert (found["source"], found["metadata"]["title"]) == (
        "release",
        release.items.column("title")[release.rows["item-7"]].as_py(),
    )
    assert "item_id" not in found["metadata"]


def test_a_change_is_finished_though_its_client_has_gone(changing: Client) -> None:
    async def hang_up() -> None:
        put = asyncio.create_task(changing.http.put("/v1/items", json={"items": [{"item_id": "new"}]}))
        while not changing.context.served.unchanging().locked():  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        put.cancel()
        await asyncio.wait([put])
        async with changing.context.served.unchanging():
            pass

    changing.run(hang_up())
    assert changing.get("/v1/items/new").status_code == 200
