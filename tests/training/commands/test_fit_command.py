"""`twotower fit`."""

import json
from pathlib import Path

import pytest

from tests.training.laws.synthetic_runs import BEHAVIOUR, a_run, isoflop_grid, isoflop_runs
from training.sweeps.ledger import export
from twotower.cli import main
from twotower.planning.law import read_law


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    runs = isoflop_runs(isoflop_grid(BEHAVIOUR, noise=0.005))
    export([*runs, a_run(outcome="diverged"), a_run(sweep="share", corpus="zipf-1.5-bb")], tmp_path / "runs.parquet")
    return tmp_path / "runs.parquet"


def test_a_law_is_fitted_shown_and_written(ledger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page = tmp_path / "law.json", tmp_path / "laws.html"
    assert main(["fit", "--ledger", str(ledger), "--metric", "set_loss", "--out", str(out), "--page", str(page)]) == 0
    said = capsys.readouterr().out
    assert "35 runs on grocery-1a2b, 1e+15 to 1e+19 FLOPs" in said
    assert "left out of every fit: 1 (diverged)" in said
    assert "N* grows as C^0.6" in said
    assert "fitted without the largest budget it is 0." in said
    assert read_law(out).metrics.keys() == {"set_loss"}
    assert "The best size for a budget: grocery-1a2b" in page.read_text()
    assert "zipf" not in page.read_text()


def test_the_law_as_json_is_all_of_stdout(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--ledger", str(ledger), "--metric", "recall@10", "--json"]) == 0
    law = json.loads(capsys.readouterr().out)
    assert law["metrics"]["recall@10"]["higher_is_better"]
    assert law["left_out"] == {"diverged": 1}


def test_a_metric_that_is_not_there_is_refused(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--ledger", str(ledger), "--metric", "ndcg@10"]) == 2
    assert "choose --metric among coverage@10, recall@10, set_loss" in capsys.readouterr().err


def test_mixed_corpora_are_refused_until_one_is_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, points = tmp_path / "runs.parquet", isoflop_grid(BEHAVIOUR, noise=0.005)
    export([*isoflop_runs(points), *isoflop_runs(points, "zipf-1.0-cc")], path)
    assert main(["fit", "--ledger", str(path)]) == 2
    assert "mixes 2 corpora, and a law holds for one: choose one of grocery-1a2b (35 runs)" in capsys.readouterr().err
    assert main(["fit", "--ledger", str(path), "--corpus", "zipf", "--metric", "set_loss"]) == 0
    assert "35 runs on zipf-1.0-cc" in capsys.readouterr().out
