import json
from pathlib import Path
from typing import Literal

import pytest

from benchmarks.report import Row, mark, merged, read_rows, write_report
from twotower.provenance import commit


def row(value: float, better: Literal["higher", "lower"] = "higher", must: float | None = None, goal: float | None = None) -> Row:
    return Row(metric="recall@10", value=value, unit="", better=better, must=must, goal=goal)


def test_the_file_holds_what_was_measured_and_where(tmp_path: Path) -> None:
    path = write_report("quality", [row(0.21, must=0.192, goal=0.22)], tmp_path / "bench")

    assert path == tmp_path / "bench" / "quality.json"
    report = json.loads(path.read_text())
    assert set(report) == {"name", "date", "commit", "cores", "rows"}
    assert report["name"] == "quality"
    assert report["commit"] == commit()
    assert report["cores"] >= 1
    assert report["rows"] == [{"metric": "recall@10", "value": 0.21, "unit": "", "must": 0.192, "goal": 0.22, "better": "higher"}]


def test_the_table_shows_every_figure_beside_its_bounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_report("speed", [row(12.5, "lower", must=50.0, goal=10.0)], tmp_path)

    shown = capsys.readouterr().out
    for expected in ("recall@10", "12.5", "<= 50", "<= 10", "short of goal"):
        assert expected in shown


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (row(0.5), ""),
        (row(0.5, must=0.5), "met"),
        (row(0.4, must=0.5), "missed"),
        (row(0.5, must=0.5, goal=0.6), "short of goal"),
        (row(0.6, must=0.5, goal=0.6), "met"),
        (row(9.0, "lower", must=10.0), "met"),
        (row(11.0, "lower", must=10.0, goal=20.0), "missed"),
    ],
)
def test_the_mark_compares_with_must_first_and_goal_second(measured: Row, expected: str) -> None:
    assert str(mark(measured)) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_was_not_measured_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="leave out figures that were not measured"):
        row(value)


def test_newer_rows_replace_those_of_the_same_name_and_the_others_stay(tmp_path: Path) -> None:
    def row(metric: str, value: float) -> Row:
        return Row(metric=metric, value=value, unit="", better="higher")

    assert read_rows("speed", tmp_path) == []
    write_report("speed", [row("a", 1), row("b", 2)], tmp_path)
    assert merged(read_rows("speed", tmp_path), [row("b", 3), row("c", 4)]) == [row("a", 1), row("b", 3), row("c", 4)]
