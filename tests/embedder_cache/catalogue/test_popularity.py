"""A bundle without events remembers its own popularity."""

from pathlib import Path

import pyarrow as pa

from embedder_cache.catalogue.popularity import popularity_from_bundle
from twotower.artefacts.bundle import load_bundle


def test_remembered_popularity_follows_the_item_not_its_row(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    ids = bundle.popularity["item_id"].to_pylist()
    values = popularity_from_bundle(bundle, pa.array([ids[7], "unheard of", ids[0]]))
    assert values[0, 0] == bundle.popularity["log_popularity"][7].as_py()[0]
    assert values[1, 0] == min(v[0] for v in bundle.popularity["log_popularity"].to_pylist())
    assert values[1, 1:].tolist() == [0.0] * (values.shape[1] - 1), "a trend needs events"
    assert values[2, 0] == bundle.popularity["log_popularity"][0].as_py()[0]
