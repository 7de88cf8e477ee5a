"""A run is found by its directory or by its bundle."""

import json
import os
from pathlib import Path

import pytest

from tests.training.run.test_journal import begun, evaluation, line
from training.report.run_record import read_run
from twotower.errors import EnvironmentProblem


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory that has noted a step and an evaluation; its bundle is not there yet."""
    journal = begun(tmp_path / "bundle.run")
    journal.step(line(1))
    journal.evaluation(evaluation(1))
    return tmp_path / "bundle.run"


def write_bundle(path: Path) -> Path:
    path.mkdir()
    (path / "manifest.json").write_text("{}")
    (path / "metrics.json").write_text(json.dumps({"data": {"items": 5}, "quality": {}}))
    (path / "provenance.json").write_text(json.dumps({"commit": "abc"}))
    return path


def test_a_run_is_found_by_its_directory_and_by_its_bundle(run: Path) -> None:
    by_the_bundle_to_be = read_run(run.with_name("bundle"))
    bundle = write_bundle(run.with_name("bundle"))

    found = read_run(run), read_run(bundle)

    assert not by_the_bundle_to_be.is_finished
    assert {(f.directory, f.bundle, f.is_finished, len(f.journal.steps)) for f in found} == {(run, bundle, True, 1)}


def test_what_the_bundle_says_completes_what_the_journal_says(run: Path) -> None:
    write_bundle(run.with_name("bundle"))
    assert read_run(run).noted == {"seed": 0, "commit": "abc", "data": {"items": 5}}


def test_a_run_directory_of_any_name_names_its_bundle(run: Path) -> None:
    moved = run.rename(run.with_name("elsewhere"))
    (moved / "config.json").write_text(json.dumps({"bundle": "/models/shop"}))
    assert read_run(moved).bundle == Path("/models/shop")


def test_a_bundle_whose_run_directory_is_gone_is_still_a_finished_run(tmp_path: Path) -> None:
    found = read_run(write_bundle(tmp_path / "bundle"))
    assert found.is_finished
    assert (found.journal.steps, found.idle_s) == ([], None)


def test_the_silence_is_that_of_the_file_which_grew_last(run: Path) -> None:
    os.utime(run / "steps.jsonl", (0, 0))
    idle_s = read_run(run).idle_s
    assert idle_s is not None
    assert idle_s < 600


def test_any_other_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="neither a bundle nor a run directory"):
        read_run(tmp_path)


def test_evaluations_are_told_apart_by_ranker(run: Path) -> None:
    assert [e.step for e in read_run(run).evaluations_of("model")] == [1]
    assert read_run(run).evaluations_of("popularity") == []
