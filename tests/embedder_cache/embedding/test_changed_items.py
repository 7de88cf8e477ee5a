"""A night that changed little writes what changed, and its release holds what a whole one would hold."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedder_cache.build import Published, build_release
from embedder_cache.catalogue.opened_release import OpenedRelease, open_release
from embedder_cache.checks.gates import Limits
from embedder_cache.embedding import changed_items
from twotower.artefacts.bundle import load_bundle
from twotower.artefacts.manifest import sha256
from twotower.artefacts.release import CONTENT, ITEMS, VECTORS, read_info, read_pointer, release_path, verify_release
from twotower.artefacts.retention import collect
from twotower.artefacts.store import LocalStore, Store
from twotower.errors import DataError

Change = Callable[[pa.Table], pa.Table]
ANY = Limits(item_count_change=1.0, golden_overlap=0.0)
PARTS = 3 * 2  # files of two parts


@pytest.fixture(autouse=True)
def however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny shop is written in parts too."""
    monkeypatch.setattr(changed_items, "LEAST_BYTES", 0)


class Shop:
    """Publishes the tiny shop's catalogue, night by night."""

    def __init__(self, store: Store, bundle: Path, shop: Path, directory: Path) -> None:
        self.store, self.bundle, self.shop, self.directory = store, load_bundle(bundle), shop, directory
        self.table = pq.read_table(shop / "items.parquet")

    def night(self, change: Change = lambda table: table, events: bool = False, store: Store | None = None) -> Published:
        self.table = change(self.table)
        pq.write_table(self.table, self.directory / "items.parquet")
        log = self.shop / "events.parquet" if events else None
        return build_release(self.bundle, self.directory / "items.parquet", store or self.store, log, limits=ANY)

    def served(self) -> OpenedRelease:
        return open_release(self.store, read_pointer(self.store).release).verified()


@pytest.fixture
def shop(any_store: Store, tiny_bundle: Path, tiny_shop: Path, tmp_path: Path) -> Shop:
    return Shop(any_store, tiny_bundle, tiny_shop, tmp_path)


def priced(*rows: int) -> Change:
    """Other prices in some rows."""

    def change(table: pa.Table) -> pa.Table:
        prices = np.array(table.column("price").to_pylist(), np.float64)
        prices[list(rows)] = np.nan_to_num(prices[list(rows)]) + 7.0
        return table.set_column(table.schema.get_field_index("price"), "price", pa.array(prices, from_pandas=True))

    return change


def renamed(row: int, item_id: str) -> Change:
    """A new item with the features of another, after all others."""
    return lambda table: pa.concat_tables([table, table.slice(row, 1).set_column(0, "item_id", pa.array([item_id]))])


def without(row: int) -> Change:
    return lambda table: pa.concat_tables([table.slice(0, row), table.slice(row + 1)])


def backwards(table: pa.Table) -> pa.Table:
    return table.take(np.arange(len(table))[::-1])


def all_of(*changes: Change) -> Change:
    def change(table: pa.Table) -> pa.Table:
        for one in changes:
            table = one(table)
        return table

    return change


@pytest.mark.parametrize("events", [False, True])
def test_after_any_nights_every_item_is_as_in_a_whole_release(shop: Shop, tmp_path: Path, events: bool) -> None:
    nights = [priced(3, 90), all_of(renamed(7, "new"), without(0)), backwards, all_of(priced(3), renamed(9, "newer"))]
    shop.night(events=events)
    for change in nights:
        published = shop.night(change, events)
        assert published.num_embedded <= 2
        assert shop.served().info.num_parts, "or this is no test of parts"
        whole_store = LocalStore(tmp_path / f"whole-{published.release}")
        shop.night(events=events, store=whole_store)
        served, whole = shop.served(), open_release(whole_store, read_pointer(whole_store).release).verified()
        assert served.items.equals(whole.items)
        assert np.array_equal(served.content_N, whole.content_N)
        width = shop.bundle.towers.config.model.width
        np.testing.assert_allclose(served.vectors_NV, whole.vectors_NV, atol=1e-5)
        assert np.array_equal(served.vectors_NV[:, width:], whole.vectors_NV[:, width:]), "popularity is that of the night"
        # One that is embedded among few others may be rounded otherwise; all else is equal bit for bit.
        same_N = (served.vectors_NV == whole.vectors_NV).all(1)
        assert same_N.sum() >= len(same_N) - 5
        assert [query.top_item_ids for query in served.golden] == [query.top_item_ids for query in whole.golden]


def test_what_did_not_change_is_linked_and_not_written(tiny_bundle: Path, tiny_shop: Path, tmp_path: Path) -> None:
    shop = Shop(LocalStore(tmp_path / "store"), tiny_bundle, tiny_shop, tmp_path)
    first = shop.night()
    second = shop.night(priced(3))
    before, after = (release_path(tmp_path / "store", night.release) for night in (first, second))
    for old, new in zip((VECTORS, ITEMS, CONTENT), ("part00.npy", "part00.arrow", "part00.content.npy"), strict=True):
        assert (before / old).samefile(after / new)
    assert len(np.load(after / "part01.npy")) == 1
    assert all((before / name).samefile(after / name) for name in ("embedder.safetensors", "contextualizer.safetensors"))


def test_nothing_changed_publishes_nothing(shop: Shop) -> None:
    first = shop.night()
    assert (again := shop.night()).release == first.release
    second = shop.night(priced(3))
    assert shop.night().release == second.release
    assert [night.changed for night in (again, second)] == [False, True]


def test_a_catalogue_that_goes_back_is_the_same_release(shop: Shop) -> None:
    first = shop.night()
    assert shop.night(backwards).release != first.release
    assert shop.night(backwards).release == first.release


def test_all_items_are_written_again_when_a_tenth_stands_in_parts(shop: Shop) -> None:
    shop.night()
    shop.night(priced(*range(40)))
    assert shop.served().info.num_parts == 2
    shop.night(priced(99))
    assert shop.served().info.num_parts == 0
    shop.night(priced(1))
    assert shop.served().info.num_parts == 2


def test_all_items_are_written_again_when_there_are_many_parts(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changed_items, "MOST_PARTS", 2)
    shop.night()
    parts = []
    for row in range(3):
        shop.night(priced(row))
        parts.append(shop.served().info.num_parts)
    assert parts == [2, 0, 2]


def test_items_with_another_column_type_are_written_again(shop: Shop) -> None:
    shop.night()
    place = shop.table.schema.get_field_index("title")
    shop.night(lambda table: priced(3)(table.set_column(place, "title", table.column("title").cast(pa.large_string()))))
    assert shop.served().items.schema.field("title").type in (pa.string(), pa.large_string())
    assert shop.served().items.column("title").to_pylist() == shop.table.column("title").to_pylist()


def test_a_small_release_is_always_whole(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changed_items, "LEAST_BYTES", 16 << 20)
    shop.night()
    shop.night(priced(3))
    assert shop.served().info.num_parts == 0


def test_each_release_stands_for_itself_when_the_others_are_gone(shop: Shop) -> None:
    shop.night()
    shop.night(priced(3))
    last = shop.night(priced(4)).release
    assert collect(shop.store, keep=1, grace_minutes=0)[1] <= 2
    for release in shop.store.releases():
        if release != last:
            shop.store.retire(release, lambda: False)
    shop.store.sweep()
    with shop.store.reread(last, None) as path:
        verify_release(path)
        copy = Path(shutil.copytree(path, shop.directory / "copy"))
    verify_release(copy)
    assert open_release(shop.store, last).verified().items.column("item_id").to_pylist() == shop.table["item_id"].to_pylist()


def test_a_damaged_base_is_not_built_upon(tiny_bundle: Path, tiny_shop: Path, tmp_path: Path) -> None:
    shop = Shop(LocalStore(tmp_path / "store"), tiny_bundle, tiny_shop, tmp_path)
    shop.night()
    path = release_path(tmp_path / "store", shop.night(priced(3)).release)
    content = bytearray((path / "part00.npy").read_bytes())
    content[5000] ^= 1
    (path / "part00.npy").write_bytes(content)
    night = shop.night(priced(4))
    assert (night.num_embedded, read_info(release_path(tmp_path / "store", night.release)).num_parts) == (400, 0)
    shop.served()


def test_where_there_are_no_links_files_are_copied(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(1, "no links here")

    shop.night()
    monkeypatch.setattr(os, "link", refuse)
    shop.night(priced(3))
    assert shop.served().info.num_parts == 2
    assert shop.served().items.column("price").to_pylist()[3] == shop.table.column("price").to_pylist()[3]


def test_a_night_reads_a_shared_file_once_unless_it_is_to_prove_it(
    tiny_bundle: Path, tiny_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(LocalStore(tmp_path / "store"), tiny_bundle, tiny_shop, tmp_path)
    shop.night()
    read: list[Path] = []

    def watched(path: Path) -> str:
        read.append(path)
        return sha256(path)

    monkeypatch.setattr("twotower.artefacts.proofs.sha256", watched)
    monkeypatch.setattr("embedder_cache.publish.sha256", watched)
    shop.night(priced(3))
    assert [path.name for path in read].count(VECTORS) == 1
    assert not [path for path in read if path.name == "part00.npy"]
    assert [path.name for path in read].count("part01.npy") == 2, "what is new is hashed, and read back"
    read.clear()
    pq.write_table(priced(4)(shop.table), tmp_path / "items.parquet")
    build_release(shop.bundle, tmp_path / "items.parquet", shop.store, None, limits=ANY, prove=True)
    assert [path.name for path in read].count("part00.npy") == 3, "opened, hashed again, and read back"


def test_a_limit_that_is_broken_leaves_the_release_before(shop: Shop) -> None:
    first = shop.night().release

    def spoil(table: pa.Table) -> pa.Table:
        prices = np.where(np.arange(len(table)) < 8, np.inf, 1.0)
        return table.set_column(table.schema.get_field_index("price"), "price", pa.array(prices, from_pandas=True))

    with pytest.raises(DataError, match="rejected"):
        shop.night(spoil)
    assert read_pointer(shop.store).release == first
