"""`twotower embed` says what it did."""

import json
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from embedder_cache.command import main
from twotower.errors import EnvironmentProblem


def test_it_publishes_once_and_says_when_nothing_changed(
    tiny_shop: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--bundle", tiny_bundle, "--items", tiny_shop / "items.parquet", "--store", tmp_path / "store"]
    assert main([str(a) for a in arguments]) == 0
    assert "published release-" in capsys.readouterr().err
    assert main([str(a) for a in [*arguments, "--json"]]) == 0
    said = capsys.readouterr()
    assert "nothing changed" in said.err
    assert json.loads(said.out)["items"] == 400


def test_it_leaves_metrics_for_prometheus(tiny_shop: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    arguments = ["--bundle", tiny_bundle, "--items", tiny_shop / "items.parquet", "--events", tiny_shop / "events.parquet"]
    started = time.time()
    assert main([str(a) for a in [*arguments, "--store", tmp_path / "store", "--metrics", tmp_path / "twotower.prom"]]) == 0
    families = text_string_to_metric_families((tmp_path / "twotower.prom").read_text())
    values = {(s.name, s.labels.get("gate")): s.value for family in families for s in family.samples}
    assert started <= values.pop(("twotower_embed_last_success_timestamp_seconds", None)) <= time.time()
    assert values.pop(("twotower_embed_duration_seconds", None)) > 0
    assert values.pop(("twotower_embed_items", None)) == 400
    assert values.pop(("twotower_embed_embedded_items", None)) == 400
    assert values.pop(("twotower_embed_rejected_items", None)) == 0
    assert values.pop(("twotower_embed_published", None)) == 1
    assert values["twotower_embed_gate", "recent_coverage"] == pytest.approx(1)
    assert {gate for _, gate in values} >= {"recent_coverage", "recall100", "holdout_recall10_over_popularity"}
    assert {value for (name, _), value in values.items() if name == "twotower_embed_gate_passed"} == {1}


def test_metrics_that_cannot_be_written_are_named(tiny_shop: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    arguments = ["--bundle", tiny_bundle, "--items", tiny_shop / "items.parquet", "--store", tmp_path / "store"]
    with pytest.raises(EnvironmentProblem, match="--metrics"):
        main([str(a) for a in [*arguments, "--metrics", tmp_path / "no such directory" / "twotower.prom"]])
