"""The page shows all data that exist so far, and says what is missing."""

import json
from pathlib import Path

from tests.training.report.test_verdict import COUNTER, METRICS
from tests.training.run.test_journal import begun, line
from training.report.page import render
from training.report.run_record import read_run

ABOUT = {
    "config": {"metric": "next-basket NDCG@10", "stages": [{"num_negatives": None}], "seed": 7},
    "created": "2026-11-23T00:08:56+00:00",
    "commit": "abc<def>",
    "parameters": {"embedder": 20, "contextualizer": 980, "embedder_share": 0.02},
    "data": {"events": 12_000},
    "versions": {"torch": "2.13.0"},
}


def run_in_progress(directory: Path) -> Path:
    journal = begun(directory / "bundle.run")
    journal.begin(ABOUT, after_step=0)
    journal.step(line(43, progress=0.43, loss=8.125))
    return directory / "bundle.run"


def finished(directory: Path) -> Path:
    run = run_in_progress(directory)
    bundle = run.with_name("bundle")
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    test = {"model": METRICS, "personal_frequency": COUNTER}
    (bundle / "metrics.json").write_text(
        json.dumps({"candidates": "full catalogue", "training": {"seconds": 600.0, "steps": 43}, "quality": {"test": test}})
    )
    return run


def test_a_run_in_progress_says_how_far_it_is_and_shows_its_curves(tmp_path: Path) -> None:
    shown = render(read_run(run_in_progress(tmp_path)))
    assert "This run has not finished" in shown
    assert "It was 43\u00a0% through at step 43" in shown
    assert "at a loss of 8.125 nats" in shown
    assert "<svg" in shown
    assert "Against the counters" not in shown


def test_a_run_without_a_step_says_so(tmp_path: Path) -> None:
    begun(tmp_path / "bundle.run").begin(ABOUT, after_step=0)
    assert "No step has been written yet" in render(read_run(tmp_path / "bundle.run"))


def test_a_finished_run_is_judged(tmp_path: Path) -> None:
    shown = render(read_run(finished(tmp_path)))
    assert "has not finished" not in shown
    assert "Against the counters" in shown
    assert "<dt>training</dt><dd>10\u00a0minutes</dd>" in shown


def test_a_run_that_stopped_early_says_which_weights_it_kept(tmp_path: Path) -> None:
    run = finished(tmp_path)
    assert "weights kept of step" not in render(read_run(run))
    metrics = run.with_name("bundle") / "metrics.json"
    metrics.write_text(json.dumps(json.loads(metrics.read_bytes()) | {"early_stopping": {"kept_step": 1_200, "stages": []}}))
    assert "<dt>weights kept of step</dt><dd>1,200</dd>" in render(read_run(run))


def test_a_bundle_alone_is_judged_and_its_missing_journal_is_named(tmp_path: Path) -> None:
    run = finished(tmp_path)
    for file in run.iterdir():
        file.unlink()
    run.rmdir()
    shown = render(read_run(run.with_name("bundle")))
    assert "there are no curves to show" in shown
    assert "Against the counters" in shown


def test_the_page_tells_how_to_repeat_the_run(tmp_path: Path) -> None:
    shown = render(read_run(run_in_progress(tmp_path)))
    for name, value in (("seed", "7"), ("events", "12,000"), ("torch", "2.13.0"), ("commit", "abc&lt;def&gt;")):
        assert f"<dt>{name}</dt><dd>{value}</dd>" in shown
    assert "The embedder holds 2.00\u00a0%" in shown
    assert "begun 2026-11-23 00:08 UTC" in shown


def test_a_name_from_the_file_system_cannot_write_html(tmp_path: Path) -> None:
    evil = tmp_path / "<b>x"
    evil.mkdir()
    assert "<b>x" not in render(read_run(run_in_progress(evil).rename(tmp_path / "<b>x.run")))
