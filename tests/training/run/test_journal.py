"""A journal stays readable when runs are long, killed or resumed."""

from pathlib import Path

import msgspec
import pytest

from training.run.journal import MAX_LINES, STEPS, EvaluationLine, RunJournal, StepLine, read_journal
from training.run.stopping import StageEnd
from twotower.errors import FormatError

END = StageEnd(
    stage=1,
    step=30,
    stopped_early=True,
    metric="ndcg@10",
    kept_step=20,
    kept_value=0.25,
    kept_evaluation=2,
    num_evaluations=4,
)


def line(step: int, progress: float | None = None, loss: float = 8.0, norm: float | None = 1.0) -> StepLine:
    return StepLine(
        loss=loss,
        gradient_norm=norm,
        step=step,
        stage=1,
        progress=step / 100 if progress is None else progress,
        learning_rate=step * 1e-4,
        events_per_s=100.0,
        seconds=step * 0.5,
    )


def evaluation(step: int) -> EvaluationLine:
    return EvaluationLine(
        step=step, stage=1, part="validation", ranker="model", candidates="all", seconds=1.0, metrics={"recall@10": 0.2}
    )


def begun(directory: Path, after_step: int = 0) -> RunJournal:
    journal = RunJournal(directory)
    journal.begin({"seed": 0}, after_step)
    return journal


def test_what_was_noted_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    journal = begun(tmp_path / "bundle.run")
    journal.step(line(1))
    journal.evaluation(evaluation(1))

    read = read_journal(tmp_path / "bundle.run")

    assert (read.config, read.steps, read.evaluations) == ({"seed": 0}, [line(1)], [evaluation(1)])


def test_a_directory_without_a_journal_reads_as_an_empty_one(tmp_path: Path) -> None:
    read = read_journal(tmp_path)
    assert (read.config, read.steps, read.evaluations) == ({}, [], [])


def test_a_long_run_is_thinned_to_means(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    num_steps = 3 * MAX_LINES
    for step in range(1, num_steps + 1):
        journal.step(line(step, step / num_steps, loss=float(step % 3), norm=None))

    steps = read_journal(tmp_path).steps

    assert len(steps) == MAX_LINES
    assert {s.loss for s in steps[1:]} == {1.0}, "the mean of 0, 1 and 2"
    assert steps[-1].step >= num_steps - 3


def test_a_line_is_that_of_the_last_step_with_means_of_loss_and_norm(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    journal.step(line(1, progress=0.0))
    journal.step(line(2, progress=0.0, loss=6.0, norm=None))
    journal.step(line(3, progress=0.5, loss=4.0, norm=3.0))

    (_, second) = read_journal(tmp_path).steps

    assert second == line(3, progress=0.5, loss=5.0, norm=3.0)


def test_the_line_that_a_kill_tore_is_left_out(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    journal.step(line(1))
    with (tmp_path / STEPS).open("a") as file:
        file.write('{"loss":8.0,"gradient_no')

    assert read_journal(tmp_path).steps == [line(1)]


def test_any_other_broken_line_is_named(tmp_path: Path) -> None:
    begun(tmp_path)
    (tmp_path / STEPS).write_text("nonsense\n" + msgspec.json.encode(line(1)).decode() + "\n")

    with pytest.raises(FormatError, match=rf"{STEPS}:1 is not a line"):
        read_journal(tmp_path)


def test_a_run_that_goes_on_forgets_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    killed = begun(tmp_path)
    for step in (0, 10, 20, 30):
        killed.step(line(step))
        killed.evaluation(evaluation(step))
    with (tmp_path / STEPS).open("a") as file:
        file.write('{"loss":')

    again = begun(tmp_path, after_step=10)
    again.step(line(11, loss=5.0))

    read = read_journal(tmp_path)
    assert read.steps == [line(0), line(10), line(11, loss=5.0)]
    assert [e.step for e in read.evaluations] == [0, 10]


def test_a_run_that_goes_on_keeps_the_ends_of_the_stages_before_and_no_others(tmp_path: Path) -> None:
    later = msgspec.structs.replace(END, stage=2, step=60)
    killed = begun(tmp_path)
    killed.stage_end(END)
    killed.stage_end(later)
    again = RunJournal(tmp_path)
    again.begin({}, after_step=40, ends=[END])
    assert read_journal(tmp_path).ends == [END]
    again.stage_end(later)
    assert read_journal(tmp_path).ends == [END, later]


def test_a_fresh_run_in_the_same_place_begins_with_nothing(tmp_path: Path) -> None:
    begun(tmp_path).evaluation(evaluation(0))

    assert begun(tmp_path) is not None

    assert read_journal(tmp_path).evaluations == []
