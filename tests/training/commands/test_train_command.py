"""The command line changes the config of a recipe before any data is read."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from training.commands.train_command import CHANGES, configure, main
from training.recipes.config import TrainConfig
from twotower.errors import EnvironmentProblem


def configured(recipe: str, **given: Any) -> TrainConfig:
    blank = dict.fromkeys(("minutes", "flops", *CHANGES))
    return configure(argparse.Namespace(recipe=recipe, **{**blank, **given}))


def test_what_is_not_given_is_the_recipes() -> None:
    assert configured("demo").minutes == 3.0
    assert configured("demo").embedder == "mlp"


def test_the_command_line_reaches_the_run(monkeypatch: pytest.MonkeyPatch, tiny_shop: Path, tmp_path: Path) -> None:
    seen: list[TrainConfig] = []
    monkeypatch.setattr("training.run.run.run", lambda config, *_, **__: seen.append(config))
    files = ["--events", "events", "--items", "items", "--schema", str(tiny_shop / "schema.toml"), "--out", str(tmp_path / "out")]
    options = [
        "--flops",
        "2e15",
        "--embedder",
        "tab_transformer",
        "--embedder-share",
        "0.1",
        "--plant-cold",
        "0.05",
        "--seed",
        "2",
    ]
    main(["from_budget", *files, *options])
    config = seen[0]
    assert (config.embedder, config.embedder_share, config.plant_cold, config.seed) == ("tab_transformer", 0.1, 0.05, 2)
    assert seen[0].stages[-1].num_negatives == configured("from_budget", flops=2e15).stages[-1].num_negatives


def test_a_run_is_told_where_it_goes_on_and_how_the_machine_is_used(
    monkeypatch: pytest.MonkeyPatch, tiny_shop: Path, tmp_path: Path
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("training.run.run.run", lambda *given: seen.extend(given))
    files = ["--events", "events", "--items", "items", "--schema", str(tiny_shop / "schema.toml"), "--out", str(tmp_path / "out")]
    main(["demo", *files, "--resume", "--run", "here", "--sharding", "fsdp", "--precision", "bf16", "--prefetch", "2"])
    config, directory, resume = seen[0], seen[5], seen[6]
    assert (config.sharding, config.precision, config.prefetch) == ("fsdp", "bf16", 2)
    assert (directory, resume) == (Path("here"), True)


def test_any_recipe_may_stop_early() -> None:
    config = configured("demo", patience=3, evaluations=20, schedule="constant")
    assert (config.patience, config.evaluations, config.schedule) == (3, 20, "constant")
    with pytest.raises(ValueError, match="patience is 3 with 0 evaluations"):
        configured("demo", patience=3, evaluations=0)


def test_a_plan_is_shown_with_its_budget(capsys: pytest.CaptureFixture[str]) -> None:
    configured("from_budget", flops=1e15)
    shown = capsys.readouterr()
    assert "0.696M parameters, 0.239B events" in shown.out + shown.err


@pytest.mark.parametrize(("recipe", "given", "takes"), [("demo", "flops", "minutes"), ("mup", "minutes", "flops")])
def test_an_option_that_the_recipe_does_not_take_is_refused(recipe: str, given: str, takes: str) -> None:
    with pytest.raises(ValueError, match=f"takes no --{given}; it takes --{takes}"):
        configured(recipe, **{given: 1e15})


def test_an_embedder_that_cannot_be_imported_is_refused_at_once() -> None:
    with pytest.raises(EnvironmentProblem, match="no_such_shop"):
        configured("demo", embedder="no_such_shop:Mine")


def test_a_share_of_the_items_is_a_share() -> None:
    with pytest.raises(ValueError, match="plant_cold is 5"):
        configured("demo", plant_cold=5.0)
