"""What changed between two releases of the tiny shop."""

from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from embedder_cache.build import build_release
from embedder_cache.catalogue.opened_release import OpenedRelease, open_release
from embedder_cache.drift.drift import Drift, compare, cosines, percentiles, summary
from twotower.artefacts.bundle import load_bundle, save_bundle
from twotower.artefacts.release import list_releases
from twotower.artefacts.store import LocalStore
from twotower.model.contextualizer import Contextualizer
from twotower.model.kinds import build_embedder
from twotower.synthetic import DAYS, START

GONE, NEW, CHANGED = 10, 5, 20


@pytest.fixture(scope="module")
def shop(tiny_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second catalogue: the first ten items are gone, twenty have another title, five are new; and half of the events."""
    directory = tmp_path_factory.mktemp("tomorrow")
    items, events = pq.read_table(tiny_shop / "items.parquet"), pq.read_table(tiny_shop / "events.parquet")
    titles = [*(f"renamed {i}" for i in range(CHANGED)), *items["title"].to_pylist()[GONE + CHANGED :]]
    kept = items.slice(GONE).set_column(items.schema.get_field_index("title"), "title", pa.array(titles))
    new = items.slice(0, NEW).set_column(0, "item_id", pa.array([f"new-{i}" for i in range(NEW)]))
    pq.write_table(pa.concat_tables([new, kept]), directory / "items.parquet")
    half = START + timedelta(days=DAYS / 2)
    pq.write_table(events.filter(pc.less(events["timestamp"], half)), directory / "events.parquet")
    return directory


@pytest.fixture(scope="module")
def store(shop: Path, tiny_shop: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of the events and today's items; then tomorrow's items and all events."""
    store, bundle = tmp_path_factory.mktemp("store"), load_bundle(tiny_bundle)
    build_release(bundle, tiny_shop / "items.parquet", store, shop / "events.parquet")
    build_release(bundle, shop / "items.parquet", store, tiny_shop / "events.parquet", forced="most-bought items are gone")
    return store


def opened(store: Path, release: str) -> OpenedRelease:
    return open_release(LocalStore(store), release).verified()


@pytest.fixture(scope="module")
def drift(store: Path, tiny_bundle: Path) -> Drift:
    older, newer = list_releases(store)
    return compare(opened(store, older), opened(store, newer), load_bundle(tiny_bundle), num_histories=5)


def test_items_are_counted(drift: Drift) -> None:
    assert (drift.items.common, drift.items.added, drift.items.removed) == (390, NEW, GONE)
    assert (drift.older.num_items, drift.newer.num_items) == (400, 395)


def test_only_items_with_another_title_have_another_vector(drift: Drift, tiny_shop: Path) -> None:
    assert drift.vectors is not None
    renamed = pq.read_table(tiny_shop / "items.parquet")["item_id"].to_pylist()[GONE : GONE + CHANGED]
    moved = drift.vectors.most_moved
    assert (drift.vectors.bit_equal, drift.vectors.changed_share) == (390 - CHANGED, CHANGED / 390)
    assert {m.item_id for m in moved} <= set(renamed)
    assert all(m.label is not None and m.label.startswith("renamed") for m in moved)
    assert [m.cosine for m in moved] == sorted(m.cosine for m in moved)
    assert drift.vectors.cosine["minimum"] == moved[0].cosine < 1
    assert sum(drift.vectors.items_by_cosine.values()) == 390


def test_demand_that_rose_and_fell_is_named(drift: Drift) -> None:
    found = drift.popularity
    assert found.spearman is not None
    assert 0 < found.divergence < 1
    assert -1 < found.spearman < 1
    assert all(m.after > m.before for m in found.risers)
    assert all(m.after < m.before for m in found.fallers)


def test_a_removed_item_that_sold_lost_all_its_demand(drift: Drift, tiny_shop: Path) -> None:
    """Popularity falls with the row in the made-up shop: the items that are gone were its best-sellers."""
    gone = set(pq.read_table(tiny_shop / "items.parquet")["item_id"].to_pylist()[:GONE])
    lost = [m for m in drift.popularity.fallers if m.item_id in gone]
    assert lost
    assert {m.after for m in lost} == {0.0}


def test_both_releases_are_asked_the_same(drift: Drift) -> None:
    found = drift.answers
    assert found is not None
    assert (found.num_golden, found.num_made_up, len(found.overlaps)) == (6, 5, 11)
    assert found.overlap == pytest.approx(np.mean(found.overlaps))
    assert found.overlap <= 1 - found.share_removed


def test_what_happened_since_training_gives_the_advice(drift: Drift) -> None:
    """The bundle's provenance does not say when it was made; the five new items have no demand yet."""
    assert drift.since_training is not None
    assert drift.since_training.unseen_items == (NEW + 1) / 395  # and the one that stands lowest
    assert drift.since_training.bundle_age_days is None
    assert drift.advice.retrain in ("soon", "now")


def test_the_report_is_one_line_too(drift: Drift) -> None:
    assert summary(drift).startswith("+5 -10 items, 5.1% of vectors changed, overlap@20 0.")
    assert summary(drift).endswith(f"retrain: {drift.advice.retrain}")


def test_the_report_survives_json(drift: Drift) -> None:
    assert msgspec.json.decode(msgspec.json.encode(drift), type=Drift) == drift


def test_a_release_has_not_drifted_from_itself(store: Path) -> None:
    release = opened(store, list_releases(store)[0])
    same = compare(release, release, num_histories=1)
    assert same.vectors is not None
    assert same.answers is not None
    assert (same.vectors.changed_share, same.vectors.cosine, same.vectors.most_moved) == (0, {}, [])
    assert (same.popularity.divergence, same.popularity.risers, same.popularity.fallers) == (0, [], [])
    assert same.popularity.spearman == pytest.approx(1)
    assert (same.answers.overlap, same.answers.score_shift, same.answers.score_spread) == (1, 0, 1)
    assert (same.since_training, same.advice.retrain) == (None, "unknown")


def test_vectors_of_another_space_are_not_compared(store: Path, shop: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    model, schema = bundle.towers.config.model, bundle.towers.schema
    torch.manual_seed(1)
    towers = build_embedder(model), Contextualizer(model)
    save_bundle(tmp_path / "other", *towers, model, (14.0,), schema, bundle.popularity, {}, {})
    other = build_release(load_bundle(tmp_path / "other"), shop / "items.parquet", tmp_path / "store", None).release
    older, newer = opened(store, list_releases(store)[1]), opened(tmp_path / "store", other)
    drift = compare(older, newer, num_histories=1)
    assert not drift.same_vector_space
    assert drift.vectors is None
    assert drift.answers is not None
    assert "vectors not comparable" in summary(drift)


def test_releases_without_a_common_item_still_have_a_report(store: Path, shop: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    items = pq.read_table(shop / "items.parquet").slice(0, NEW)
    pq.write_table(items, tmp_path / "items.parquet")
    new = build_release(load_bundle(tiny_bundle), tmp_path / "items.parquet", tmp_path, None).release
    drift = compare(opened(store, list_releases(store)[0]), opened(tmp_path, new))
    assert (drift.items.common, drift.vectors, drift.answers) == (0, None, None)
    assert drift.popularity.spearman is None
    assert drift.same_vector_space
    assert "+5 -400 items, vectors not comparable" in summary(drift)


def test_cosines_by_hand() -> None:
    a, b = np.array([[1, 0], [3, 4]], np.float32), np.array([[0, 2], [4, 3]], np.float32)
    np.testing.assert_allclose(cosines(a, b), [0, 0.96])


def test_percentiles_of_nothing_are_none() -> None:
    assert percentiles(np.array([])) == {}
    assert percentiles(np.array([0.5, 1.0]))["median"] == 0.75
