"""A bundle without events remembers its own popularity, and of new items something is expected."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from embedder_cache.catalogue.popularity import expect_new_items, popularity_from_bundle, popularity_from_events
from twotower.artefacts.bundle import load_bundle


def test_remembered_popularity_follows_the_item_not_its_row(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    ids = bundle.popularity["item_id"].to_pylist()
    values = popularity_from_bundle(bundle, pa.array([ids[7], "unheard of", ids[0]])).log_NP
    assert values[0, 0] == bundle.popularity["log_popularity"][7].as_py()[0]
    assert values[1, 0] == min(v[0] for v in bundle.popularity["log_popularity"].to_pylist())
    assert values[1, 1:].tolist() == [0.0] * (values.shape[1] - 1), "a trend needs events"
    assert values[2, 0] == bundle.popularity["log_popularity"][0].as_py()[0]


def test_only_items_that_training_did_not_know_get_what_is_expected_of_new_ones(tiny_bundle: Path) -> None:
    """The new item has the vector of the most popular one, five times over, so its neighbours are those five."""
    bundle = load_bundle(tiny_bundle)
    item_ids = pa.array([*bundle.popularity["item_id"].to_pylist(), "new"])
    log_N = popularity_from_bundle(bundle, item_ids).log_NP[:, 0]
    width, top = bundle.towers.config.model.width, np.argsort(-log_N)[:5]
    vectors_NV = np.random.default_rng(0).normal(size=(len(item_ids), width + 2)).astype(np.float32)
    vectors_NV[top, :width] = vectors_NV[-1, :width] = 3 * np.eye(width)[0]
    vectors_NV[:, width] = log_N
    after_NV = vectors_NV.copy()
    expect_new_items(after_NV, bundle, item_ids, np.zeros(len(item_ids), np.float32))
    expected = np.exp(log_N[-1]) + np.sqrt(np.exp(log_N[top])).mean() ** 2
    assert np.exp(after_NV[-1, width]) == pytest.approx(expected, rel=1e-4)
    after_NV[-1, width] = vectors_NV[-1, width]
    np.testing.assert_array_equal(after_NV, vectors_NV)


def test_popularity_knows_since_when_an_item_is_bought(tiny_bundle: Path, tiny_shop: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    ids = bundle.popularity["item_id"].to_pylist()
    counted = popularity_from_events(tiny_shop / "events.parquet", bundle, pa.array(["unheard of", *ids]))
    events = pq.read_table(tiny_shop / "events.parquet", columns=["item_id", "timestamp"])
    times = events.filter(pc.equal(events["item_id"].cast(pa.string()), ids[0]))["timestamp"]
    days = (pc.max(events["timestamp"]).as_py() - pc.min(times).as_py()) / timedelta(days=1)
    assert counted.age_days_N[:2].tolist() == [0, pytest.approx(days)]
