"""The nightly job: what it publishes, what it refuses, and what it leaves alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from embedder_cache.build import build_release
from embedder_cache.publish import make_store, only_publisher
from tests.embedder_cache.forked import build_and_die
from twotower.artefacts.bundle import load_bundle, read_table
from twotower.artefacts.release import GATES, ITEMS, VECTORS, list_releases, read_info, read_pointer, release_path, verify_release
from twotower.errors import DataError, EnvironmentProblem, StoreError
from twotower.index.kinds import Kind


def test_vectors_and_items_are_of_one_catalogue(tiny_store: Path, tiny_shop: Path) -> None:
    path = release_path(tiny_store, read_pointer(tiny_store).release)
    vectors = np.load(path / VECTORS)
    items = pq.read_table(tiny_shop / "items.parquet")
    assert read_table(path / ITEMS)["item_id"].equals(items["item_id"])
    assert vectors.shape == (len(items), 33)


@pytest.mark.parametrize("kind", ["int8", "ivfpq"])
def test_the_index_asked_for_is_built_once_and_told(tiny_shop: Path, tiny_bundle: Path, tmp_path: Path, kind: Kind) -> None:
    bundle = load_bundle(tiny_bundle)
    first, second = (
        build_release(bundle, tiny_shop / "items.parquet", tmp_path, None, forced="a test", index=kind) for _ in range(2)
    )
    assert (first.changed, second.changed) == (True, False)
    path = release_path(tmp_path, first.release)
    assert read_info(path).index.kind == kind
    assert json.loads((path / GATES).read_bytes())["index"]["why"] == "asked for"
    assert {gate.name for gate in first.gates} >= {"recall100", "search_p99_ms"}


def test_popularity_comes_fresh_from_events(tiny_store: Path, tiny_shop: Path) -> None:
    """The most bought item of the last weeks has the highest popularity dimension."""
    path = release_path(tiny_store, read_pointer(tiny_store).release)
    events = pq.read_table(tiny_shop / "events.parquet")
    times_s = np.array([t.timestamp() for t in events["timestamp"].to_pylist()])
    age_days = (times_s.max() - times_s) / 86400
    rows = pc.index_in(events["item_id"], read_table(path / ITEMS)["item_id"].combine_chunks()).to_numpy()
    expected = np.bincount(rows, 0.5 ** (age_days / 14), 400)
    popularity = np.load(path / VECTORS)[:, 32]
    np.testing.assert_allclose(popularity, np.log((expected + 0.1) / (expected + 0.1).sum()), rtol=1e-4)


def test_a_second_run_with_nothing_changed_publishes_nothing(tiny_shop: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    first, second = (build_release(bundle, tiny_shop / "items.parquet", tmp_path, None) for _ in range(2))
    assert (first.changed, second.changed) == (True, False)
    assert read_pointer(tmp_path).sequence == 1
    assert list_releases(tmp_path) == [first.release]


def test_a_run_killed_before_the_pointer_is_finished_by_the_next(tiny_shop: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle, items = load_bundle(tiny_bundle), tiny_shop / "items.parquet"
    first = build_release(bundle, items, tmp_path, None)
    (tmp_path / "CURRENT").unlink()
    shutil.rmtree(tmp_path / "pointers")
    again = build_release(bundle, items, tmp_path, None)
    assert (again.release, again.changed) == (first.release, True)
    assert read_pointer(tmp_path).release == first.release


def test_a_catalogue_that_goes_back_is_served_again(tiny_shop: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle, items = load_bundle(tiny_bundle), tiny_shop / "items.parquet"
    for events in (None, tiny_shop / "events.parquet", None):
        published = build_release(bundle, items, tmp_path, events)
        assert published.changed
        assert read_pointer(tmp_path).release == published.release
    assert len(list_releases(tmp_path)) == 2


def test_a_damaged_release_is_replaced(tiny_shop: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle, items = load_bundle(tiny_bundle), tiny_shop / "items.parquet"
    path = release_path(tmp_path, build_release(bundle, items, tmp_path, None).release)
    (path / VECTORS).write_bytes(b"rotten")
    again = build_release(bundle, items, tmp_path, None)
    assert again.changed
    assert list_releases(tmp_path) == [again.release], "what is damaged is no release any more"
    verify_release(release_path(tmp_path, read_pointer(tmp_path).release))


def test_refreshed_popularity_leaves_embeddings_bit_equal(tiny_shop: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    releases = [
        build_release(bundle, tiny_shop / "items.parquet", tmp_path, e).release for e in (None, tiny_shop / "events.parquet")
    ]
    old, new = (np.load(release_path(tmp_path, r) / VECTORS) for r in releases)
    np.testing.assert_array_equal(old[:, :32], new[:, :32])
    assert not np.array_equal(old[:, 32], new[:, 32])
    assert read_pointer(tmp_path).previous == releases[0]


def test_a_new_item_without_history_is_served(tiny_shop: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    shop = Path(shutil.copytree(tiny_shop, tmp_path / "shop"))
    items = pq.read_table(shop / "items.parquet")
    new = items.slice(0, 1).set_column(0, "item_id", pa.array(["brand new"]))
    pq.write_table(pa.concat_tables([items, new]), shop / "items.parquet")
    published = build_release(load_bundle(tiny_bundle), shop / "items.parquet", tmp_path / "store", None)
    vectors = np.load(release_path(tmp_path / "store", published.release) / VECTORS)
    assert np.isfinite(vectors[-1]).all()
    assert vectors[:-1, 32].min() < vectors[-1, 32] < vectors[:-1, 32].max()  # what is expected of an item like it


def test_a_bad_catalogue_leaves_the_store_as_it_was(tiny_store: Path, tiny_shop: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(tiny_store, tmp_path / "store"))
    before = (read_pointer(store), list_releases(store))
    items = pq.read_table(tiny_shop / "items.parquet")
    pq.write_table(items.set_column(items.schema.get_field_index("price"), "price", items["title"]), tmp_path / "items.parquet")
    with pytest.raises(DataError, match="'price' is no number"):
        build_release(load_bundle(tiny_bundle), tmp_path / "items.parquet", store, None)
    assert (read_pointer(store), list_releases(store)) == before
    assert not list((store / "releases").glob(".staging-*"))


def test_an_unwritable_store_is_named(tiny_shop: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentProblem, match="--store"):
        build_release(load_bundle(tiny_bundle), tiny_shop / "items.parquet", tmp_path / "file", None)


def test_golden_answers_are_those_of_the_release(tiny_store: Path) -> None:
    path = release_path(tiny_store, read_pointer(tiny_store).release)
    verify_release(path)
    golden = json.loads((path / "golden.json").read_bytes())
    assert [len(g["item_ids"]) for g in golden] == [0, 1, 2, 7, 30, 200]
    assert all(len(g["top_item_ids"]) == 10 == len(set(g["top_item_ids"])) for g in golden)
    assert all(g["top_scores"] == sorted(g["top_scores"], reverse=True) for g in golden)


def test_one_publisher_at_a_time(tiny_shop: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle, items = load_bundle(tiny_bundle), tiny_shop / "items.parquet"
    make_store(tmp_path)
    with only_publisher(tmp_path), pytest.raises(StoreError, match="another `twotower embed`"):
        build_release(bundle, items, tmp_path, None)
    assert build_release(bundle, items, tmp_path, None).changed


def test_what_a_killed_run_left_is_removed_by_the_next(tiny_shop: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """Killed while it embeds, at a moment that the run itself chooses; its lock dies with it."""
    items = tiny_shop / "items.parquet"
    build_and_die(tiny_bundle, items, tmp_path)
    assert list((tmp_path / "releases").iterdir()), "it had begun"
    published = build_release(load_bundle(tiny_bundle), items, tmp_path, None)
    assert [p.name for p in (tmp_path / "releases").iterdir()] == [published.release]
