"""A release in parts answers as a whole one of the same catalogue, item by item, and is refused when a part is damaged."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedder_cache.build import build_release
from embedder_cache.embedding import changed_items
from service.histories.history import UserHistory
from service.release.loading import load_release, open_release
from service.settings import Settings
from tests.service.conftest import Client, MemoryHistory
from twotower.artefacts.bundle import load_bundle
from twotower.artefacts.release import read_info, read_pointer, release_path, verify_release
from twotower.errors import IntegrityError
from twotower.index.kinds import Kind

NUM_PARTS = 3


def nights(items: pa.Table) -> Iterator[pa.Table]:
    """Items are replaced, added and deleted, and in the last night they stand in another order."""
    yield items
    price = items.schema.get_field_index("price")
    prices = items.column("price").to_pylist()
    prices[5:12] = [float(n) for n in range(7)]
    items = items.set_column(price, "price", pa.array(prices, items.schema.field("price").type)).slice(2)
    items = pa.concat_tables([items, items.slice(40, 4).set_column(0, "item_id", pa.array([f"new-{n}" for n in range(4)]))])
    yield items
    items = pa.concat_tables([items.slice(0, 100), items.slice(103)])
    late = items.slice(60, 1).set_column(0, "item_id", pa.array(["late"]))
    yield pa.concat_tables([late, items]).take(np.random.default_rng(0).permutation(len(items) + 1))


@pytest.fixture(params=["flat", "int8", "flat16", "ivfpq"])
def both(
    request: pytest.FixtureRequest,
    tiny_bundle: Path,
    tiny_shop: Path,
    tmp_path: Path,
    histories: dict[str, UserHistory],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[Client, Client]]:
    """Servers of a release in parts, and of a whole one."""
    monkeypatch.setattr(changed_items, "LEAST_BYTES", 0)
    kind: Kind = request.param

    def embed(store: Path) -> None:
        events = tiny_shop / "events.parquet"
        build_release(load_bundle(tiny_bundle), tmp_path / "items.parquet", store, events, forced="a test", index=kind)

    for items in nights(pq.read_table(tiny_shop / "items.parquet")):
        pq.write_table(items, tmp_path / "items.parquet")
        embed(tmp_path / "parts")
    embed(tmp_path / "whole")
    stores = [tmp_path / name for name in ("parts", "whole")]
    infos = [read_info(release_path(store, read_pointer(store).release)) for store in stores]
    assert [info.num_parts for info in infos] == [NUM_PARTS, 0]
    clients = []
    for store in stores:
        history = MemoryHistory()
        history.users = dict(histories)
        client = Client(Settings(store=store, torch_threads=2), load_release(store), history)
        clients.append(client.__enter__())
    yield clients[0], clients[1]
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def parts(tiny_bundle: Path, tiny_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a release in parts."""
    monkeypatch.setattr(changed_items, "LEAST_BYTES", 0)
    for items in nights(pq.read_table(tiny_shop / "items.parquet")):
        pq.write_table(items, tmp_path / "items.parquet")
        build_release(load_bundle(tiny_bundle), tmp_path / "items.parquet", tmp_path, None, forced="a test")
    return release_path(tmp_path, read_pointer(tmp_path).release)


def test_a_part_that_is_gone_cut_or_has_a_flipped_bit_is_refused_before_it_is_parsed(
    parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for parser in ("load_towers", "read_vectors", "read_items", "open_index"):
        monkeypatch.setattr(f"service.release.loading.{parser}", lambda *_: pytest.fail("parsed before it was verified"))
    files = [file for file in sorted(parts.iterdir()) if file.name.startswith(("part", "rows", "popularity"))]
    assert len(files) == 3 * NUM_PARTS + 2
    rng = np.random.default_rng(0)
    for file in files:
        data = file.read_bytes()
        place = int(rng.integers(len(data)))
        for damaged in (data[:place], data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], None):
            file.unlink()
            if damaged is not None:
                file.write_bytes(damaged)
            with pytest.raises(IntegrityError, match=file.name):
                open_release(parts)
            file.write_bytes(data)
    verify_release(parts)


def same(answers: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """The same items in the same order, with the same scores but for the rounding of those that were embedded apart."""
    parts, whole = answers
    assert [item["item_id"] for item in parts["items"]] == [item["item_id"] for item in whole["items"]]
    assert [item["score"] for item in parts["items"]] == pytest.approx([item["score"] for item in whole["items"]], abs=1e-4)
    assert [item.get("metadata") for item in parts["items"]] == [item.get("metadata") for item in whole["items"]]


def test_every_answer_is_that_of_a_whole_release(both: tuple[Client, Client], histories: dict[str, UserHistory]) -> None:
    def asked(path: str, **body: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        answers = [client.post(path, body) for client in both]
        assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
        return answers[0].json(), answers[1].json()

    for user in list(histories)[:40]:
        same(asked("/v1/recommend", user_id=user, num_results=50, include_metadata=["title", "price"]))
        same(asked("/v1/recommend", user_id=user, num_results=20, filter="price < 5"))
    for item in ("new-0", "late", "item-7", "item-200"):
        same(asked("/v1/similar", item_id=item, num_results=30))
        same(asked("/v1/recommend", candidate_item_ids=[item, "item-9"]))
    everything = asked("/v1/recommend", num_results=500)
    same(everything)
    ids = {item["item_id"] for item in everything[0]["items"]}
    assert {"new-3", "late"} <= ids
    assert len(ids) == 400 - 2 + 4 - 3 + 1
