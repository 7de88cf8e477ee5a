"""The output of `twotower evaluate`."""

import json
from pathlib import Path

import pytest
from rich.text import Text

from training.commands.evaluate_command import gain_cell, main


def arguments(shop: Path, bundle: Path, *more: str) -> list[str]:
    return ["--bundle", str(bundle), "--events", str(shop / "events.parquet"), "--items", str(shop / "items.parquet"), *more]


def test_the_tables_name_the_candidates_and_warn_of_batch_local_figures(
    tiny_shop: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    assert main(arguments(tiny_shop, tiny_bundle)) == 0
    shown = capsys.readouterr().out
    for words in (
        "next-basket, test part: full catalogue, 400 items, past items kept",
        "model - popularity",
        "explore, among the unseen",
        "debiased R@10",
        "unseen R@10, model over popularity:",
        "poor stand-in for full-catalogue loss",
    ):
        assert words in shown
    assert len(shown.splitlines()) < 50, "a table, not a wall"


def test_json_holds_every_metric_and_what_was_ranked(
    tiny_shop: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tiny_shop, tiny_bundle, "--protocol", "leave-one-out", "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["candidates"] == "full catalogue, 400 items, past items masked"
    assert {"gini@10", "batch_local_loss", "debiased_recall@10"} <= set(told["rankers"]["model"])


@pytest.mark.parametrize(
    ("name", "low", "high", "style"),
    [
        ("recall@10", 0.1, 0.2, "green"),
        ("recall@10", -0.2, -0.1, "red"),
        ("recall@10", -0.1, 0.1, "default"),
        ("set_loss", -0.2, -0.1, "green"),
    ],
)
def test_a_difference_is_green_only_where_its_whole_interval_is_better(name: str, low: float, high: float, style: str) -> None:
    cell = gain_cell({f"minus popularity: {name}.low": low, f"minus popularity: {name}.high": high}, "popularity", name)
    assert isinstance(cell, Text)
    assert (cell.plain, cell.style) == (f"{low:+.4f}\n{high:+.4f}", style)


def test_a_difference_that_cannot_be_said_is_a_dash() -> None:
    assert gain_cell({}, "popularity", "set_loss") == "-"
