"""The whole run on the tiny shop: a bundle with its metrics, or nothing."""

from pathlib import Path

import pytest

from tests.training.conftest import TINY
from training.data import read_data
from training.evaluate import next_basket
from training.judge import compare_with_counters
from training.run import run
from twotower.bundle import load_bundle
from twotower.errors import DataError, EnvironmentProblem
from twotower.schema import Schema, load_schema


@pytest.fixture(scope="module")
def bundle(tiny_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "bundle"
    run(TINY, tiny_shop / "events.parquet", tiny_shop / "items.parquet", load_schema(tiny_shop / "schema.toml"), out)
    return out


def test_the_bundle_tells_how_good_it_is_and_where_it_comes_from(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    test = loaded.metrics["next_basket"]["test"]
    assert set(test) == {"model", "popularity", "personal_frequency"}
    assert set(loaded.metrics["next_basket"]) == {"train", "validation", "test"}
    assert 0 < test["model"]["recall@10"] < 1
    assert loaded.metrics["parameters"]["embedder_share"] == pytest.approx(0.2, abs=0.01)


def test_evaluating_the_bundle_gives_what_training_reported(bundle: Path, tiny_shop: Path) -> None:
    loaded = load_bundle(bundle)
    towers, items = loaded.towers, tiny_shop / "items.parquet"
    config = towers.config
    data = read_data(
        tiny_shop / "events.parquet",
        items,
        towers.schema,
        config.popularity_half_lives_days,
        config.model.context_table_rows,
        config.model.context_spec,
    )
    queries = next_basket(data.log, data.test_from_ms, data.end_ms)
    again = compare_with_counters(data, towers, items, queries, "again")
    reported = loaded.metrics["next_basket"]["test"]
    for ranker in reported:
        assert again[ranker] == pytest.approx(reported[ranker], rel=1e-5, nan_ok=True)


def test_a_taken_place_is_refused_before_the_work(bundle: Path, tiny_shop: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="exists already"):
        run(TINY, tiny_shop / "nowhere", tiny_shop / "nowhere", Schema(), bundle)


def test_a_schema_without_a_split_is_refused(tiny_shop: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="split"):
        run(TINY, tiny_shop / "events.parquet", tiny_shop / "items.parquet", Schema(), tmp_path / "bundle")
