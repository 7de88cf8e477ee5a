import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from embedder_cache import build
from embedder_cache.build import build_release
from embedder_cache.checks.gates import Limits
from embedder_cache.embedding import local_engine as engine
from twotower.artefacts.bundle import Bundle, load_bundle, read_table, save_bundle
from twotower.artefacts.release import ITEMS, VECTORS, read_pointer, release_path
from twotower.errors import DataError
from twotower.model import catalogue
from twotower.model.contextualizer import Contextualizer
from twotower.model.kinds import build_embedder

WIDTH = 32
ANY = Limits(item_count_change=1.0, golden_overlap=0.0)


def published(store: Path) -> tuple[list[str], np.ndarray]:
    """Ids and embeddings of the release that is served."""
    path = release_path(store, read_pointer(store).release)
    return read_table(path / ITEMS).column("item_id").to_pylist(), np.load(path / VECTORS)[:, :WIDTH]


@pytest.fixture
def store(tiny_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_store, tmp_path / "store"))


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the items that were embedded, as they are."""
    seen: list[str] = []

    def watched(table: pa.Table, embedder: torch.nn.Module, *rest: object) -> np.ndarray:
        seen.extend(table.column("item_id").to_pylist())
        return catalogue.embed_table(table, embedder, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "embed_table", watched)
    return seen


def rebuild(bundle: Bundle, shop: Path, store: Path, change: Callable[[pa.Table], pa.Table]) -> build.Published:
    """Publish the tiny shop's catalogue after a change."""
    pq.write_table(change(pq.read_table(shop / "items.parquet")), store / "items.parquet")
    return build_release(bundle, store / "items.parquet", store, None, limits=ANY)


@pytest.mark.parametrize("first", [False, True])
def test_vectors_with_ids_and_without_are_not_kept_for_one_another(
    first: bool, tiny_shop: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle, made = load_bundle(tiny_bundle), []
    for by_content in (first, first, not first, first):
        done = build_release(bundle, tiny_shop / "items.parquet", tmp_path, None, limits=ANY, by_content=by_content)
        made.append((done.num_embedded, published(tmp_path)[1]))
    assert [num_embedded for num_embedded, _ in made] == [400, 0, 400, 400]
    assert np.array_equal(made[0][1], made[3][1])
    assert not np.array_equal(made[0][1], made[2][1])


def priced(table: pa.Table, rows: list[int]) -> pa.Table:
    """The table with other prices in some rows."""
    prices = np.array(table.column("price").to_pylist(), np.float64)
    prices[rows] = 99.0
    return table.set_column(table.schema.get_field_index("price"), "price", pa.array(prices))


def test_only_changed_and_new_items_are_embedded(tiny_shop: Path, tiny_bundle: Path, store: Path, embedded: list[str]) -> None:
    ids, before = published(store)

    def change(table: pa.Table) -> pa.Table:
        new = table.slice(7, 1).set_column(0, "item_id", pa.array(["new"]))
        return pa.concat_tables([priced(table, [3, 90]).slice(1), new])

    result = rebuild(load_bundle(tiny_bundle), tiny_shop, store, change)
    assert sorted(embedded) == sorted([ids[3], ids[90], "new"])
    assert (result.num_items, result.num_embedded, result.num_gone, result.num_rejected) == (400, 3, 1, 0)
    ids_after, after = published(store)
    place = {item_id: row for row, item_id in enumerate(ids_after)}
    assert ids[0] not in place
    for row in range(1, 400):
        same = np.array_equal(before[row], after[place[ids[row]]])
        assert same == (row not in (3, 90)), ids[row]


def test_what_was_kept_is_what_a_full_build_makes(tiny_shop: Path, tiny_bundle: Path, store: Path, tmp_path: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    rebuild(bundle, tiny_shop, store, lambda table: priced(table, [5, 6, 7]))
    build_release(bundle, store / "items.parquet", tmp_path / "fresh", None)
    np.testing.assert_allclose(published(store)[1], published(tmp_path / "fresh")[1], atol=1e-6)


def test_the_order_of_the_catalogue_is_no_change(tiny_shop: Path, tiny_bundle: Path, store: Path, embedded: list[str]) -> None:
    ids, before = published(store)
    result = rebuild(load_bundle(tiny_bundle), tiny_shop, store, lambda table: table.take(np.arange(400)[::-1]))
    assert (embedded, result.changed) == ([], True)
    ids_after, after = published(store)
    assert ids_after == ids[::-1]
    np.testing.assert_array_equal(after, before[::-1])


def test_another_embedder_embeds_everything(
    tiny_shop: Path, tiny_bundle: Path, store: Path, embedded: list[str], tmp_path: Path
) -> None:
    bundle = load_bundle(tiny_bundle)
    towers, model = bundle.towers, bundle.towers.config.model
    torch.manual_seed(1)
    other = build_embedder(model), towers.contextualizer, model, (14.0,), towers.schema, bundle.popularity
    save_bundle(tmp_path / "other", *other, {}, {"seed": 1})
    result = rebuild(load_bundle(tmp_path / "other"), tiny_shop, store, lambda table: table.slice(1))
    assert len(embedded) == result.num_embedded == 399
    assert result.num_gone == 1


def test_another_contextualizer_embeds_nothing(
    tiny_shop: Path, tiny_bundle: Path, store: Path, embedded: list[str], tmp_path: Path
) -> None:
    bundle = load_bundle(tiny_bundle)
    towers, model = bundle.towers, bundle.towers.config.model
    other = towers.embedder, Contextualizer(model), model, (14.0,), towers.schema, bundle.popularity
    save_bundle(tmp_path / "other", *other, {}, {"seed": 1})
    result = rebuild(load_bundle(tmp_path / "other"), tiny_shop, store, lambda table: table)
    assert (embedded, result.changed) == ([], True)


def test_a_damaged_release_is_not_built_upon(
    tiny_shop: Path, tiny_bundle: Path, store: Path, embedded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = release_path(store, read_pointer(store).release) / VECTORS
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    result = rebuild(load_bundle(tiny_bundle), tiny_shop, store, lambda table: priced(table, [3]))
    assert len(embedded) == result.num_embedded == 400
    assert "damaged, so every item is embedded again" in capsys.readouterr().err
    assert np.isfinite(published(store)[1]).all()


def test_too_many_rejected_rows_stop_the_night(tiny_shop: Path, tiny_bundle: Path, store: Path) -> None:
    def spoil(table: pa.Table) -> pa.Table:
        prices = np.where(np.arange(400) < 5, np.inf, 1.0)
        return table.set_column(table.schema.get_field_index("price"), "price", pa.array(prices))

    with pytest.raises(DataError, match=r"rejected is 1\.2%, must be at most 1\.0%"):
        rebuild(load_bundle(tiny_bundle), tiny_shop, store, spoil)


def test_rejected_rows_are_listed_in_the_release_and_the_rest_is_published(
    tiny_shop: Path, tiny_bundle: Path, store: Path
) -> None:
    def spoil(table: pa.Table) -> pa.Table:
        prices = np.where(np.arange(400) == 11, np.inf, 1.0)
        return table.set_column(table.schema.get_field_index("price"), "price", pa.array(prices))

    result = rebuild(load_bundle(tiny_bundle), tiny_shop, store, spoil)
    assert (result.num_items, result.num_rejected) == (399, 1)
    assert "399 items" in str(result)
    assert "1 rejected" in str(result)
    lines = pq.read_table(release_path(store, result.release) / "rejected.parquet").to_pylist()
    ids = pq.read_table(tiny_shop / "items.parquet").column("item_id").to_pylist()
    assert lines == [{"row": 11, "item_id": ids[11], "column": "price", "reason": "is infinite"}]
    gates = {gate.name: gate for gate in result.gates}
    assert (gates["rejected"].value, gates["rejected"].passed) == (1 / 400, True)
    assert not pc.is_in(pa.array([ids[11]]), pa.array(published(store)[0])).to_pylist()[0]
