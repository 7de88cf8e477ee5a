"""`twotower laws`."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from msgspec import convert

from tests.training.laws.synthetic_runs import BEHAVIOUR, isoflop_grid, isoflop_runs
from training.commands.laws_command import MEASURED
from training.sweeps.exclusions import excluded
from training.sweeps.grids import GRIDS
from training.sweeps.ledger import Settings, export, read_runs
from twotower.cli import main

DOCS = Path(__file__).parents[3] / "docs"


def test_every_figure_is_drawn_as_a_file_and_all_on_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(isoflop_runs(isoflop_grid(BEHAVIOUR, noise=0.005)), tmp_path / "runs.parquet")
    out = tmp_path / "drawn" / "again"
    assert main(["laws", "--ledger", str(tmp_path / "runs.parquet"), "--out", str(out)]) == 0
    files = sorted(path.name for path in out.glob("*.svg"))
    assert "valley-grocery-1a2b-set-loss.svg" in files
    assert capsys.readouterr().out == f"{out / 'laws.html'}, and {len(files)} figures\n"
    assert (out / "laws.html").read_text().count("<svg ") == len(files)
    for name in files:
        text = (out / name).read_text()
        assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(--" not in text


def test_the_same_ledger_gives_the_same_files(tmp_path: Path) -> None:
    export(isoflop_runs(isoflop_grid(BEHAVIOUR, noise=0.005)), tmp_path / "runs.parquet")
    for name in ("one", "two"):
        main(["laws", "--ledger", str(tmp_path / "runs.parquet"), "--out", str(tmp_path / name)])
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_the_runs_of_the_page_on_laws_are_part_of_the_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["laws", "--out", str(tmp_path)]) == 0
    assert "and 68 figures" in capsys.readouterr().out
    runs = read_runs(MEASURED)
    assert {run.sweep for run in runs} == set(GRIDS)
    assert [run.key for run in runs] == [convert(run.settings, Settings).key for run in runs], "a sweep would not run them again"
    assert [excluded(run) for run in runs] == [run.excluded for run in runs], "left out by the rules, and by nothing else"
    page = (DOCS / "laws.md").read_text()
    assert f"{len(runs)} runs, one thread each" in page


def test_a_ledger_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["laws", "--ledger", "nowhere.parquet"]) == 2
    assert "there is no ledger nowhere.parquet: `twotower sweep` writes one" in capsys.readouterr().err
