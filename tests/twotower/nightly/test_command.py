"""A night goes on where it stopped, says what was wrong with the one before, and runs alone."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.twotower.nightly.test_config import MINIMAL, written
from twotower.errors import DataError, StoreError
from twotower.nightly import command
from twotower.nightly.command import main, only_run
from twotower.nightly.run import Ended, Run, StepFailed, StepRefused, Stopped
from twotower.nightly.status import STEPS, read_night
from twotower.nightly.steps import ACTIONS


class Actions:
    """Steps that do nothing but what the test says of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.broken: dict[str, BaseException] = {}
        monkeypatch.setattr(command, "stop_on_sigterm", lambda: None)
        monkeypatch.setattr(command, "require_store", lambda _: None)
        for name in STEPS:
            monkeypatch.setitem(ACTIONS, name, self.named(name))

    def named(self, name: str) -> Callable[[Run], Ended]:
        def act(_: Run) -> Ended:
            if name in self.broken:
                raise self.broken[name]
            self.done.append(name)
            return Ended("good")

        return act


@pytest.fixture
def actions(monkeypatch: pytest.MonkeyPatch) -> Actions:
    return Actions(monkeypatch)


@pytest.fixture
def config(tmp_path: Path) -> str:
    return str(written(tmp_path, MINIMAL))


def test_a_night_is_done_once(actions: Actions, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", config, "--date", "2026-05-31"]) == 0
    assert actions.done == list(STEPS)
    assert main(["--config", config, "--date", "2026-05-31"]) == 0
    assert actions.done == list(STEPS)
    assert "the night of 2026-05-31 is done already" in capsys.readouterr().err
    assert main(["--config", config, "--date", "2026-05-31", "--again-from", "embed"]) == 0
    assert actions.done == [*STEPS, *STEPS[STEPS.index("embed") :]]


def test_a_rerun_goes_on_with_the_step_that_failed(actions: Actions, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    actions.broken = {"embed": StepFailed("recall is .1", 2)}
    assert main(["--config", config, "--date", "2026-05-31"]) == 1
    told = "the night of 2026-05-31 failed in `embed`: recall is .1. What was served stays."
    assert capsys.readouterr().err.splitlines()[-1] == told
    assert actions.done == list(STEPS[: STEPS.index("embed")])
    actions.broken = {}
    assert main(["--config", config, "--date", "2026-05-31"]) == 0
    assert actions.done == list(STEPS)


def test_a_run_that_was_stopped_goes_on(actions: Actions, config: str, tmp_path: Path) -> None:
    def stopped(_: Run) -> Ended:
        raise Stopped

    actions.broken = {"canary": Stopped()}
    assert main(["--config", config, "--date", "2026-05-31"]) == 143
    night = read_night(tmp_path / "nights" / "2026-05-31")
    assert night is not None
    assert (night.step("canary").state, night.step("promote").state) == ("stopped", "pending")
    actions.broken = {}
    assert main(["--config", config, "--date", "2026-05-31"]) == 0
    assert actions.done == list(STEPS)


def test_a_night_that_failed_is_told_once_by_the_next_one(
    actions: Actions, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    actions.broken = {"canary": StepFailed("too slow")}
    main(["--config", config, "--date", "2026-05-30"])
    actions.broken = {}
    capsys.readouterr()
    assert main(["--config", config, "--date", "2026-05-31"]) == 3, "its own steps are done, the last night's are not"
    assert "WARNING: the night of 2026-05-30 failed in `canary`: too slow" in capsys.readouterr().err
    assert main(["--config", config, "--date", "2026-05-31"]) == 0
    assert main(["--config", config, "--date", "2026-06-01"]) == 0


def test_the_status_is_a_table_and_says_what_is_wrong(actions: Actions, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="holds no night yet"):
        main(["--config", config, "--status"])
    main(["--config", config, "--date", "2026-05-29"])
    assert main(["--config", config, "--status"]) == 0
    actions.broken = {"canary": StepFailed("too slow")}
    main(["--config", config, "--date", "2026-05-30"])
    capsys.readouterr()
    assert main(["--config", config, "--status"]) == 1
    said = capsys.readouterr()
    assert "night of 2026-05-30" in said.out
    assert said.err.strip() == "the night of 2026-05-30 failed in `canary`: too slow"
    actions.broken = {}
    main(["--config", config, "--date", "2026-05-31"])
    assert main(["--config", config, "--status"]) == 1, "the night before is still to be looked at"
    assert main(["--config", config, "--status", "--date", "2026-05-29"]) == 0


def test_two_runs_at_once_are_one(actions: Actions, config: str, tmp_path: Path) -> None:
    with only_run(tmp_path / "nights"), pytest.raises(StoreError, match="another `twotower nightly`"):
        main(["--config", config])
    assert actions.done == []


def test_the_metrics_file_tells_how_the_night_ended(actions: Actions, tmp_path: Path) -> None:
    config = str(written(tmp_path, 'metrics = "prom/nightly.prom"\n' + MINIMAL))
    actions.broken = {"gates": StepRefused("release-1 broke recall100")}
    assert main(["--config", config, "--date", "2026-05-31"]) == 1
    said = (tmp_path / "prom" / "nightly.prom").read_text()
    assert 'twotower_nightly_step_refused{step="gates"} 1.0' in said
    assert "twotower_nightly_running 0.0" in said
    assert "last_success" not in said
    actions.broken = {}
    assert main(["--config", config, "--date", "2026-05-31"]) == 0
    said = (tmp_path / "prom" / "nightly.prom").read_text()
    assert 'twotower_nightly_step_refused{step="gates"} 0.0' in said
    assert "twotower_nightly_last_success_timestamp_seconds 1" in said


def test_a_date_that_is_none_is_said(actions: Actions, config: str) -> None:
    with pytest.raises(DataError, match="--date 'yesterday' is not a date"):
        main(["--config", config, "--date", "yesterday"])
