"""Curves show the data of the journal; correlations need enough evaluations."""

from pathlib import Path

import msgspec
import pytest

from tests.training.run.test_journal import END, begun, evaluation, line
from training.report.curves import agreement, training_curves, validation_curves
from training.report.run_record import RunRecord, read_run
from training.run.stopping import describe

STAGES = [{"num_negatives": 4096, "negatives": "uniform"}, {"num_negatives": None, "negatives": "uniform"}]


def record(directory: Path, num_evaluations: int) -> RunRecord:
    """A run of two stages; its metrics: recall rises while the loss falls, the entropy never moves."""
    journal = begun(directory / "bundle.run")
    journal.begin({"config": {"stages": STAGES}}, after_step=0)
    for step in range(1, 21):
        journal.step(msgspec.structs.replace(line(step, step / 20), stage=1 if step <= 12 else 2))
    counter = {"recall@10": 0.1, "users": 3.0, "queries": 9.0}
    journal.evaluation(msgspec.structs.replace(evaluation(0), ranker="popularity", metrics=counter))
    for n in range(num_evaluations):
        metrics = counter | {"recall@10": 0.1 * n, "set_loss": 9.0 - n, "entropy": 5.0}
        journal.evaluation(msgspec.structs.replace(evaluation(4 * n), metrics=metrics))
    return read_run(directory / "bundle.run")


def test_the_curves_of_a_run_that_stopped_early_say_where_and_what_was_kept(tmp_path: Path) -> None:
    record(tmp_path, 2)
    begun(tmp_path / "bundle.run", after_step=20).stage_end(END)
    assert f"Early stopping: {describe(END)}" in validation_curves(read_run(tmp_path / "bundle.run"))


def test_every_stage_has_its_own_loss_curve_with_its_candidates(tmp_path: Path) -> None:
    shown = training_curves(record(tmp_path, 0))
    assert "loss of stage 1, nats, over 4,096 uniform negatives and the right answers" in shown
    assert "loss of stage 2, nats, over the full catalogue" in shown
    assert shown.count("<svg") == 5, "two losses, learning rate, gradient norm, events/s"


def test_a_run_without_gradient_norms_has_no_curve_of_them(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    journal.step(line(1, norm=None))
    assert "norm of the gradient" not in training_curves(read_run(tmp_path))


def test_validation_names_its_candidates_and_draws_the_counters(tmp_path: Path) -> None:
    shown = validation_curves(record(tmp_path, 3))
    assert "9 queries of 3 users" in shown
    assert "Candidates: all." in shown
    assert shown.count("<svg") == 3, "the metrics that were noted: recall, loss, entropy"
    assert shown.count("stroke: var(--popularity)") == 1, "the counter has a recall alone"


def test_without_evaluations_there_are_no_validation_curves(tmp_path: Path) -> None:
    assert validation_curves(record(tmp_path, 0)) == ""


def test_metrics_that_move_together_correlate(tmp_path: Path) -> None:
    shown = agreement(record(tmp_path, 4))
    assert "over 4 evaluations" in shown
    assert shown.count("+1.00") == 2, "each with itself"
    assert shown.count("-1.00") == 1, "recall rises as the loss falls"
    assert shown.count('<span class="faint">-</span>') == 3, "the entropy never moved"


@pytest.mark.parametrize("num_evaluations", [0, 3])
def test_too_few_evaluations_are_not_correlated(tmp_path: Path, num_evaluations: int) -> None:
    assert f"{num_evaluations} evaluations: 4 are needed" in agreement(record(tmp_path, num_evaluations))
