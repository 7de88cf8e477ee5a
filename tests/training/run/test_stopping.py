"""A run with patience stops when validation no longer improves, and its bundle is made of the best weights."""

import json
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
import torch

from tests.training.conftest import TINY, Shop
from tests.training.run.test_journal import END
from training.recipes.config import TrainConfig
from training.run.checkpoint import RunDirectory, forget_checkpoints, identify
from training.run.journal import RunJournal, read_journal
from training.run.loop import StepReport, TrainState, learning_rate, prepare_training, resumed, train
from training.run.run import run
from training.run.stopping import MIN_ANSWERS, EarlyStopping, StageEnd, describe, evaluated, out_of_patience, stop_metric
from training.run.watch import Watch
from twotower.artefacts.bundle import load_bundle
from twotower.data.schema import load_schema

FIRST, SECOND = TINY.stages
PATIENT = msgspec.structs.replace(TINY, patience=2, evaluations=19, schedule="constant")
ONE_STAGE = msgspec.structs.replace(PATIENT, stages=(msgspec.structs.replace(FIRST, share=1.0, max_steps=10),))
Weights = dict[str, torch.Tensor]


class Killed(Exception):
    """Stands for what may end a process."""


def values(*of_evaluations: float) -> EarlyStopping:
    """After evaluations with these values, at the steps 10, 20, ..."""
    so_far = EarlyStopping()
    for number, value in enumerate(of_evaluations, start=1):
        so_far = evaluated(so_far, 10 * number, value)
    return so_far


def weights_of(state: TrainState) -> Weights:
    return {name: tensor.clone() for name, tensor in state.objective.state_dict().items()}


def same(one: Weights, other: Weights) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


class Measured:
    """A run whose evaluation of each step has a given value. It notes weights by step, and can be killed."""

    def __init__(self, shop: Shop, config: TrainConfig, directory: Path, values: Iterable[float]) -> None:
        files = RunDirectory(directory, identify(config, shop.model, shop.items, shop.sampler()), shop.data.item_ids)
        self.inputs, state = prepare_training(config, shop.model, shop.items, shop.sampler(), shop.data.snapshots, files)
        self.state = resumed(self.inputs, state)
        self.values = dict(enumerate(values, start=1))
        self.weights: dict[int, Weights] = {}
        self.reports: list[StepReport] = []
        self.ends: list[StageEnd] = []
        self.dies_at = 0

    def step(self, report: StepReport) -> float:
        if report.step == self.dies_at:
            raise Killed
        self.reports.append(report)
        self.weights[report.step] = weights_of(self.state)
        return self.values[report.step]

    def train(self) -> TrainState:
        return train(self.inputs, self.state, self.step, self.ends.append)


# When to stop.


def test_a_stage_stops_after_as_many_evaluations_without_a_better_one_as_patience_says() -> None:
    assert not out_of_patience(PATIENT, values(0.2, 0.3, 0.1))
    assert out_of_patience(PATIENT, values(0.2, 0.3, 0.1, 0.3)), "an equal value is no improvement"
    assert not out_of_patience(PATIENT, values(0.2, 0.3, 0.1, 0.4, 0.1))
    assert not out_of_patience(TINY, values(0.2, 0.1, 0.1, 0.1)), "without patience the limit ends it"


def test_the_mean_of_nothing_is_no_improvement() -> None:
    assert values(float("nan"), 0.2, float("nan")) == EarlyStopping(num_evaluations=3, best=2, best_step=20, best_value=0.2)


def test_the_metric_is_the_one_the_recipe_was_chosen_by() -> None:
    assert stop_metric(PATIENT) == "ndcg@10"
    with pytest.raises(ValueError, match=r"'set loss' does not end with one of hit_rate@10, .*leave out --patience"):
        stop_metric(msgspec.structs.replace(PATIENT, metric="set loss"))


def test_the_learning_rate_may_stay_constant_after_the_warm_up() -> None:
    config = msgspec.structs.replace(PATIENT, learning_rate=2e-3, warmup=0.1)
    assert learning_rate(0.05, 512, config) == pytest.approx(1e-3)
    assert learning_rate(0.1, 512, config) == learning_rate(0.9, 512, config) == 2e-3


# What is kept.


def test_the_best_weights_are_kept_and_the_run_ends_early(shop: Shop, tmp_path: Path) -> None:
    measured = Measured(shop, ONE_STAGE, tmp_path, (0.1, 0.2, 0.5, 0.4, 0.3, 0.6))
    state = measured.train()
    assert state.step == 5
    assert same(weights_of(state), measured.weights[3])
    assert not same(measured.weights[5], measured.weights[3])
    (end,) = measured.ends
    assert (end.stopped_early, end.step, end.kept_step, end.kept_value) == (True, 5, 3, 0.5)


def test_the_best_weights_are_kept_when_the_limit_ends_the_run(shop: Shop, tmp_path: Path) -> None:
    measured = Measured(shop, ONE_STAGE, tmp_path, (0.1, 0.2, 0.1, 0.3, 0.2, 0.4, 0.3, 0.5, 0.9, 0.8))
    state = measured.train()
    assert state.step == 10
    assert same(weights_of(state), measured.weights[9])
    assert not measured.ends[0].stopped_early


def test_the_second_stage_begins_from_the_best_weights_of_the_first_and_stops_by_itself(shop: Shop, tmp_path: Path) -> None:
    measured = Measured(shop, PATIENT, tmp_path, (0.1, 0.5, 0.4, 0.4, 0.6, 0.5, 0.5))
    state = measured.train()
    assert [(r.step, r.stage) for r in measured.reports] == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (7, 2)]
    assert [(e.stage, e.step, e.kept_step) for e in measured.ends] == [(1, 4, 2), (2, 7, 5)]
    embedder = [name for name in measured.weights[2] if name.startswith("embedder.")]
    assert all(torch.equal(measured.weights[5][name], measured.weights[2][name]) for name in embedder)
    assert same(weights_of(state), measured.weights[5])


def test_a_second_stage_that_only_harms_is_undone(shop: Shop, tmp_path: Path) -> None:
    measured = Measured(shop, PATIENT, tmp_path, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.5, 0.4))
    state = measured.train()
    assert [(e.stage, e.step, e.kept_step, e.stopped_early) for e in measured.ends] == [(1, 6, 6, False), (2, 8, 6, True)]
    assert same(weights_of(state), measured.weights[6])


def test_the_second_stage_of_a_run_with_minutes_has_its_own_share_of_them(shop: Shop, tmp_path: Path) -> None:
    stages = tuple(msgspec.structs.replace(stage, max_steps=None) for stage in PATIENT.stages)
    config = msgspec.structs.replace(PATIENT, minutes=60.0, stages=stages)
    measured = Measured(shop, config, tmp_path, (0.5, 0.4, 0.4, 0.6, 0.5, 0.5))
    state = measured.train()
    assert [r.stage for r in measured.reports] == [1, 1, 1, 2, 2, 2]
    assert measured.reports[3].progress == pytest.approx(0.5, abs=0.01)
    assert state.elapsed_s < 60


# Killed and resumed.


@pytest.mark.parametrize("dies_at", range(2, 8))
def test_a_killed_run_goes_on_counting_and_keeps_the_same_weights(shop: Shop, tmp_path: Path, dies_at: int) -> None:
    """Killed after the first step or any other, with and without a checkpoint of that step."""
    given = (0.1, 0.5, 0.4, 0.4, 0.6, 0.5, 0.5)
    whole = Measured(shop, PATIENT, tmp_path / "whole", given)
    expected = weights_of(whole.train())

    killed = Measured(shop, PATIENT, tmp_path / "run", given)
    killed.dies_at = dies_at
    with pytest.raises(Killed):
        killed.train()
    again = Measured(shop, PATIENT, tmp_path / "run", given)
    assert again.state.step == max(step for step in (1, 2, 5) if step < dies_at), "every best evaluation wrote a checkpoint"
    state = again.train()

    assert same(weights_of(state), expected)
    assert state.ends == whole.state.ends


def test_a_run_killed_after_it_stopped_does_not_train_on(shop: Shop, tmp_path: Path) -> None:
    config = msgspec.structs.replace(ONE_STAGE, checkpoint_minutes=0.0)
    given = (0.1, 0.5, 0.4, 0.4)
    best = weights_of(Measured(shop, config, tmp_path, given).train())
    again = Measured(shop, config, tmp_path, given)
    assert (again.state.step, same(weights_of(again.state), best)) == (4, False), "the checkpoint is that of the last step"
    state = again.train()
    assert (again.reports, state.step, same(weights_of(state), best)) == ([], 4, True)


def test_the_checkpoint_of_the_best_evaluation_stays_beside_the_newest(shop: Shop, tmp_path: Path) -> None:
    config = msgspec.structs.replace(ONE_STAGE, checkpoint_minutes=0.0)
    Measured(shop, config, tmp_path, (0.1, 0.5, 0.4, 0.4)).train()
    assert sorted(path.name for path in (tmp_path / "checkpoint").iterdir()) == ["step-000000002", "step-000000004"]
    forget_checkpoints(tmp_path)
    assert not (tmp_path / "checkpoint").exists()


# The whole run.


@pytest.fixture
def files(tiny_shop: Path) -> tuple[Path, Path]:
    return tiny_shop / "events.parquet", tiny_shop / "items.parquet"


def test_the_bundle_is_made_of_the_best_weights_and_everything_says_so(
    files: tuple[Path, Path], tiny_shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = run(PATIENT, *files, load_schema(tiny_shop / "schema.toml"), tmp_path / "bundle")

    noted = metrics["early_stopping"]
    journal = read_journal(tmp_path / "bundle.run")
    lines = [line for line in journal.evaluations if line.ranker == "model"]
    best = max(lines, key=lambda line: line.metrics["ndcg@10"])
    assert noted["kept_step"] == best.step
    assert noted["answers"] == best.metrics["answers"] >= MIN_ANSWERS
    assert [msgspec.to_builtins(end) for end in journal.ends] == noted["stages"]
    assert noted["stages"][-1]["kept_value"] == best.metrics["ndcg@10"]
    assert load_bundle(tmp_path / "bundle").metrics == metrics
    assert not (tmp_path / "bundle.run" / "checkpoint").exists()
    assert describe(journal.ends[-1]) in capsys.readouterr().err


def test_a_validation_part_too_small_to_stop_by_is_told_and_the_run_goes_on_to_its_limit(
    files: tuple[Path, Path], tiny_shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.run.stopping.MIN_ANSWERS", 5_000)
    metrics = run(PATIENT, *files, load_schema(tiny_shop / "schema.toml"), tmp_path / "bundle")
    told = capsys.readouterr().err
    assert "no early stopping: the validation part has 1," in told
    assert "fewer than 5,000" in told
    assert metrics["training"]["steps"] == 10
    assert metrics["early_stopping"]["stages"] == []
    assert "kept_step" not in metrics["early_stopping"]
    assert json.loads((tmp_path / "bundle" / "metrics.json").read_bytes()) == metrics


def test_a_stop_after_the_first_evaluation_asks_whether_the_learning_rate_is_too_high() -> None:
    first = msgspec.structs.replace(END, kept_evaluation=1, num_evaluations=3)
    said = "stage 1 stopped early at step 30, 2 evaluations after the best; the weights of step 20 are kept (ndcg@10 0.2500)"
    assert describe(first).startswith(f"{said}. No evaluation was better than the first: is the learning rate too high")
    assert describe(END) == said


# The watch.


def test_a_run_that_stops_early_is_evaluated_at_every_point_whatever_it_costs_and_at_the_end_of_each_stage(
    shop: Shop, tmp_path: Path
) -> None:
    config = msgspec.structs.replace(PATIENT, evaluations=3)
    inputs, state = prepare_training(config, shop.model, shop.items, shop.sampler(), shop.data.snapshots)
    over = Watch(config, shop.model, shop.items, shop.data, RunJournal(tmp_path))
    told: list[int] = []

    def step(report: StepReport) -> None:
        if over.step(report, lambda: state.objective) is not None:
            told.append(report.step)

    over.begin(state, {})
    train(inputs, state, step)
    assert told == [3, 6, 8, 10], "a quarter, the end of stage 1, three quarters, the end of stage 2"


def test_without_patience_nothing_is_told_to_the_run(shop: Shop, tmp_path: Path) -> None:
    config = msgspec.structs.replace(TINY, evaluations=3)
    inputs, state = prepare_training(config, shop.model, shop.items, shop.sampler(), shop.data.snapshots)
    over = Watch(config, shop.model, shop.items, shop.data, RunJournal(tmp_path))
    told: list[float | None] = []
    train(inputs, state, lambda report: told.append(over.step(report, lambda: state.objective)))
    assert told == [None] * 10
