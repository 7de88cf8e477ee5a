"""Curves show the data of the journal; correlations need enough evaluations."""

from pathlib import Path

import msgspec
import pytest

from tests.training.run.test_journal import END, begun, evaluation, line
from training.report.curves import Curves, agreement, training_curves, validation_curves
from training.report.run_record import RunRecord, read_run
from training.run.stopping import describe
from twotower.report.parts import Matrix

STAGES = [{"num_negatives": 4096, "negatives": "uniform"}, {"num_negatives": None, "negatives": "uniform"}]


def told(curves: Curves | None) -> Curves:
    assert curves is not None
    return curves


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
    assert f"Early stopping: {describe(END)}" in told(validation_curves(read_run(tmp_path / "bundle.run"))).about


def test_every_stage_has_its_own_loss_curve_with_its_candidates(tmp_path: Path) -> None:
    first, second, *others = told(training_curves(record(tmp_path, 0))).figures
    assert (first.title, second.title) == ("Loss of stage 1", "Loss of stage 2")
    assert "over 4,096 uniform negatives and the right answers" in first.about
    assert "over the full catalogue" in second.about
    assert [drawn.title for drawn in others] == ["Learning rate", "Gradient norm", "Speed"]


def test_a_run_without_gradient_norms_has_no_curve_of_them(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    journal.step(line(1, norm=None))
    assert "Gradient norm" not in [drawn.title for drawn in told(training_curves(read_run(tmp_path))).figures]


def test_validation_names_its_candidates_and_draws_the_counters(tmp_path: Path) -> None:
    shown = told(validation_curves(record(tmp_path, 3)))
    assert "9 queries of 3 users" in shown.about[0]
    assert "Candidates: all." in shown.about[0]
    assert [drawn.title for drawn in shown.figures] == ["Set loss", "R@10", "Entropy of the prediction"]
    assert sum("stroke:var(--second)" in drawn.drawing for drawn in shown.figures) == 1, "the counter has a recall alone"


def test_without_evaluations_there_are_no_validation_curves(tmp_path: Path) -> None:
    assert validation_curves(record(tmp_path, 0)) is None


def test_metrics_that_move_together_correlate(tmp_path: Path) -> None:
    shown = agreement(record(tmp_path, 4))
    assert isinstance(shown, Matrix)
    assert "over 4 evaluations" in shown.about
    assert [[cell.text for cell in row] for row in shown.rows] == [["+1.00"], ["−1.00", "+1.00"], ["–", "–", "–"]]


@pytest.mark.parametrize("num_evaluations", [0, 3])
def test_too_few_evaluations_are_not_correlated(tmp_path: Path, num_evaluations: int) -> None:
    assert agreement(record(tmp_path, num_evaluations)) == f"{num_evaluations} evaluations: 4 are needed for rank correlations."
