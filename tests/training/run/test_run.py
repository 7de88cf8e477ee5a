"""The whole run on the tiny shop: a bundle with its metrics, or nothing."""

import json
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.training.conftest import TINY
from training.commands.evaluate_command import main as evaluate
from training.data.read import read_data
from training.evaluation.rankers import next_basket
from training.evaluation.splits import compare_with_counters
from training.run.run import run
from twotower.artefacts.bundle import load_bundle
from twotower.data.schema import Schema, SignalColumns, load_schema
from twotower.errors import DataError, EnvironmentProblem


@pytest.fixture(scope="module")
def bundle(tiny_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "bundle"
    run(TINY, tiny_shop / "events.parquet", tiny_shop / "items.parquet", load_schema(tiny_shop / "schema.toml"), out)
    return out


def test_the_bundle_tells_how_good_it_is_and_where_it_comes_from(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    test = loaded.metrics["quality"]["test"]
    assert set(test) == {"model", "popularity", "personal_frequency"}
    assert set(loaded.metrics["quality"]) == {"train", "validation", "test"}
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
    reported = loaded.metrics["quality"]["test"]
    for ranker in reported:
        assert again[ranker] == pytest.approx(reported[ranker], rel=1e-5, nan_ok=True)


def test_a_run_that_was_killed_is_neither_overwritten_nor_lost(
    tiny_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = msgspec.structs.replace(TINY, checkpoint_minutes=0.0)
    given = tiny_shop / "events.parquet", tiny_shop / "items.parquet", load_schema(tiny_shop / "schema.toml"), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("training.run.run.evaluate_splits", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(config, *given)
    assert not (tmp_path / "out").exists()
    with pytest.raises(EnvironmentProblem, match="unfinished run"):
        run(config, *given)
    metrics = run(config, *given, resume=True)
    assert metrics["training"]["steps"] == 10
    assert load_bundle(tmp_path / "out").metrics == metrics
    assert not (tmp_path / "out.run" / "checkpoint").exists(), "the bundle is there: nothing is left to resume"


def interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def test_a_taken_place_is_refused_before_the_work(bundle: Path, tiny_shop: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="exists already"):
        run(TINY, tiny_shop / "nowhere", tiny_shop / "nowhere", Schema(), bundle)


def test_a_schema_without_a_split_is_refused(tiny_shop: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="split"):
        run(TINY, tiny_shop / "events.parquet", tiny_shop / "items.parquet", Schema(), tmp_path / "bundle")


def test_signals_reach_the_bundle_and_its_evaluation(tiny_shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """item-5 goes into the mailer on the day before training ends; evaluation needs the file again, and agrees."""
    schema = msgspec.structs.replace(load_schema(tiny_shop / "schema.toml"), signals=SignalColumns(features=("mailer",)))
    begins = schema.require_split().validation_from - timedelta(days=1)
    stamp = pa.timestamp("ms", "UTC")
    columns = {"item_id": ["item-5"], "from": pa.array([begins], stamp), "until": pa.nulls(1, stamp), "mailer": [0.5]}
    pq.write_table(pa.table(columns), tmp_path / "signals.parquet")
    data, out = (tiny_shop / "events.parquet", tiny_shop / "items.parquet"), tmp_path / "bundle"
    with pytest.raises(DataError, match="--signals"):
        run(TINY, *data, schema, out)
    run(TINY, *data, schema, out, signals=tmp_path / "signals.parquet")
    loaded = load_bundle(out)
    assert loaded.towers.config.num_signals == 1
    mailed = {row["item_id"]: row["log_popularity"][-1] for row in loaded.popularity.to_pylist() if row["log_popularity"][-1]}
    assert mailed == {"item-5": 0.5}
    files = zip(("--bundle", "--events", "--items", "--signals"), (out, *data, tmp_path / "signals.parquet"), strict=True)
    assert evaluate([*(str(part) for pair in files for part in pair), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["rankers"]
    assert again["model"] == pytest.approx(loaded.metrics["quality"]["test"]["model"], rel=1e-5)


def test_a_run_says_that_its_data_is_short(tiny_shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = msgspec.structs.replace(TINY, evaluations=0)
    run(
        config,
        tiny_shop / "events.parquet",
        tiny_shop / "items.parquet",
        load_schema(tiny_shop / "schema.toml"),
        tmp_path / "bundle",
    )
    assert "is compute-optimal with" in capsys.readouterr().err
