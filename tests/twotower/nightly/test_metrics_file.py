"""What Prometheus is told of a night, also of one that was killed."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from twotower.errors import EnvironmentProblem
from twotower.nightly import metrics_file
from twotower.nightly.metrics_file import beating, write_metrics
from twotower.nightly.status import STEPS, Night, new_night, write_night

NOON = datetime(2026, 5, 31, 12, tzinfo=UTC)


def told(path: Path) -> dict[str, float]:
    """Name and labels of each sample in a file, as the node exporter reads it."""
    samples = [sample for family in text_string_to_metric_families(path.read_text()) for sample in family.samples]
    return {" ".join([s.name.removeprefix("twotower_nightly_"), *s.labels.values()]): s.value for s in samples}


def done(date: str) -> Night:
    night = new_night(date)
    for step in night.steps:
        step.state, step.started, step.ended = "done", NOON, NOON + timedelta(seconds=2)
    return night


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two nights: the first ended well."""
    for night in (done("2026-05-30"), new_night("2026-05-31")):
        (tmp_path / "nights" / night.date).mkdir(parents=True)
        write_night(night, tmp_path / "nights" / night.date)
    return tmp_path / "nights"


def test_each_step_has_one_state_and_the_time_that_it_took(folder: Path, tmp_path: Path) -> None:
    night = new_night("2026-05-31")
    night.steps[0].state, night.steps[0].started, night.steps[0].ended = "done", NOON, NOON + timedelta(seconds=3)
    night.steps[1].state, night.steps[1].started = "running", NOON
    write_metrics(tmp_path / "n.prom", folder, night, True)
    samples = told(tmp_path / "n.prom")
    assert samples["running"] == 1
    assert {name: value for name, value in samples.items() if "duration" in name} == {"step_duration_seconds ingest": 3}
    ones = [name for name, value in samples.items() if name.startswith("step_state") and value]
    assert ones == ["step_state ingest done", "step_state validate running", *(f"step_state {n} pending" for n in STEPS[2:])]
    assert {value for name, value in samples.items() if "refused" in name.split()[0]} == {0}
    assert samples["last_success_timestamp_seconds"] == (NOON + timedelta(seconds=2)).timestamp(), "of the night before"
    assert {path.name for path in tmp_path.iterdir()} == {"nights", "n.prom"}, "nothing half written is left"


def test_a_night_that_refused_a_bundle_reached_its_end_and_one_that_failed_did_not(folder: Path, tmp_path: Path) -> None:
    night = done("2026-05-31")
    night.step("evaluate").state, night.step("evaluate").refused = "refused", True
    night.steps[-1].ended = NOON + timedelta(days=1)
    write_night(night, folder / night.date)
    write_metrics(tmp_path / "n.prom", folder, night, False)
    samples = told(tmp_path / "n.prom")
    assert samples["step_refused evaluate"] == 1
    assert samples["last_success_timestamp_seconds"] == (NOON + timedelta(days=1)).timestamp()
    night.step("canary").state = "failed"
    write_night(night, folder / night.date)
    write_metrics(tmp_path / "n.prom", folder, night, False)
    assert told(tmp_path / "n.prom")["last_success_timestamp_seconds"] == (NOON + timedelta(seconds=2)).timestamp()


def test_a_first_night_that_failed_has_no_last_success(tmp_path: Path) -> None:
    night = new_night("2026-05-31")
    (tmp_path / "nights").mkdir()
    write_metrics(tmp_path / "n.prom", tmp_path / "nights", night, False)
    assert "last_success_timestamp_seconds" not in told(tmp_path / "n.prom")


def test_the_heart_beats_while_a_night_is_at_work_and_not_after_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_file, "BEAT_S", 0.01)
    path, night = tmp_path / "metrics" / "n.prom", new_night("2026-05-31")
    before = set(threading.enumerate())
    with beating(path, folder, night):
        first = told(path)
        assert first["running"] == 1
        night.steps[0].state = "running"  # the thread sees what the run notes
        wait = threading.Event()
        while told(path)["step_state ingest running"] == 0:
            wait.wait(0.01)
        assert told(path)["heartbeat_timestamp_seconds"] > first["heartbeat_timestamp_seconds"]
    last = told(path)
    assert (last["running"], set(threading.enumerate()) - before) == (0, set())


def test_a_file_that_cannot_be_written_is_said_before_anything_is_done(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    begun = beating(tmp_path / "file" / "n.prom", folder, new_night("2026-05-31"))
    with pytest.raises(EnvironmentProblem, match=r"cannot write .*/file/n\.prom: .*Correct `metrics`"), begun:
        raise AssertionError("the night began")


def test_a_disk_that_is_full_meanwhile_does_not_end_the_night(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics" / "n.prom"
    with beating(path, folder, new_night("2026-05-31")):
        path.unlink()
        path.parent.rmdir()
    assert f"WARNING: cannot write {path}: No such file or directory" in capsys.readouterr().err
