"""Evaluations do not change a run, and its journal has their results."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from tests.training.conftest import TINY, Shop
from training.losses.objective import Objective
from training.recipes.config import TrainConfig
from training.run.journal import RunJournal, read_journal
from training.run.loop import StepReport, TrainState, prepare_training, train
from training.run.watch import MAX_SHARE, Watch, evaluating

ALL = msgspec.structs.replace(TINY, evaluations=2)


def watch(shop: Shop, directory: Path | None, config: TrainConfig = ALL) -> Watch:
    return Watch(config, shop.model, shop.items, shop.data, None if directory is None else RunJournal(directory))


def fresh(shop: Shop, config: TrainConfig = ALL) -> TrainState:
    return prepare_training(config, shop.model, shop.items, shop.sampler(), shop.data.snapshots)[1]


def report(step: int, progress: float, elapsed_s: float, stage: int = 1) -> StepReport:
    return StepReport(
        stage=stage,
        step=step,
        progress=progress,
        loss=5.0,
        step_loss=5.5,
        gradient_norm=0.25,
        learning_rate=1e-3,
        elapsed_s=elapsed_s,
        num_events=100,
        events_per_s=900.0,
    )


class Towers:
    """Counts how often the towers are asked for."""

    def __init__(self, objective: Objective) -> None:
        self.objective, self.asked = objective, 0

    def __call__(self) -> Objective:
        self.asked += 1
        return self.objective


def test_a_watched_run_takes_the_same_steps(shop: Shop, tmp_path: Path) -> None:
    inputs, state = prepare_training(ALL, shop.model, shop.items, shop.sampler(), shop.data.snapshots)
    alone = train(inputs, state).losses

    inputs, state = prepare_training(ALL, shop.model, shop.items, shop.sampler(), shop.data.snapshots)
    over = watch(shop, tmp_path)
    over.begin(state, {})
    watched = train(inputs, state, lambda r: over.step(r, lambda: state.objective)).losses

    assert watched == alone
    journal = read_journal(tmp_path)
    assert [line.loss for line in journal.steps] == watched
    assert [line.ranker for line in journal.evaluations][:2] == ["popularity", "personal_frequency"]
    assert "model" in [line.ranker for line in journal.evaluations]


def test_every_part_goes_back_to_the_mode_it_was_in(shop: Shop) -> None:
    objective = fresh(shop).objective.train()
    objective.embedder.eval()
    with evaluating(objective):
        assert not any(part.training for part in objective.modules())
    assert objective.contextualizer.training
    assert not objective.embedder.training


def test_evaluations_are_spread_over_the_run_and_the_end_is_not_among_them(shop: Shop, tmp_path: Path) -> None:
    over, towers = watch(shop, tmp_path), Towers(fresh(shop).objective)
    for step in range(1, 101):
        over.step(report(step, step / 100, elapsed_s=60.0 * step), towers)
    assert [(line.step, line.part) for line in read_journal(tmp_path).evaluations] == [(34, "validation"), (67, "validation")]
    assert towers.asked == 2


def test_costly_evaluations_are_left_out(shop: Shop, tmp_path: Path) -> None:
    """The first takes 40 of 300 s by the clock of the run; the second would come while that is above the allowed share."""
    over, towers = watch(shop, tmp_path), Towers(fresh(shop).objective)
    for step, progress, elapsed_s in ((1, 0.30, 290.0), (2, 0.34, 300.0), (3, 0.40, 340.0), (4, 0.70, 700.0)):
        over.step(report(step, progress, elapsed_s), towers)
    assert MAX_SHARE * 700 < 40
    assert towers.asked == 1
    over.step(report(5, 0.90, 40 / MAX_SHARE + 1), towers)
    assert towers.asked == 2, "once it is affordable again"


def test_ranks_that_do_not_write_still_bring_their_weights(shop: Shop) -> None:
    over, towers = watch(shop, None), Towers(fresh(shop).objective)
    over.begin(fresh(shop), {})
    over.step(report(1, 0.5, 10.0), towers)
    assert towers.asked == 1


def test_a_run_that_goes_on_keeps_its_evaluations_and_does_not_repeat_them(shop: Shop, tmp_path: Path) -> None:
    towers, state = Towers(fresh(shop).objective), fresh(shop)
    first = watch(shop, tmp_path)
    first.begin(state, {"attempt": 1})
    for step in (4, 5):
        first.step(report(step, step / 10, 10.0 * step), towers)
    state.step, state.stage_step, state.elapsed_s = 4, 4, 40.0

    second = watch(shop, tmp_path)
    second.begin(state, {"attempt": 2})
    second.step(report(5, 0.5, 50.0), towers)

    journal = read_journal(tmp_path)
    assert journal.config == {"attempt": 2}
    assert [(line.step, line.ranker) for line in journal.evaluations] == [
        (0, "popularity"),
        (0, "personal_frequency"),
        (4, "model"),
    ]
    assert [line.step for line in journal.steps] == [4, 5]


def test_item_vectors_are_computed_once_in_a_stage_that_freezes_them(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def embed(_embedder: torch.nn.Module, items: object) -> torch.Tensor:
        asked.append(1)
        return torch.zeros(len(shop.items), shop.model.width)

    monkeypatch.setattr("training.run.watch.embed_rows", embed)
    over, objective = watch(shop, tmp_path), fresh(shop).objective
    for stage in (1, 1, 2, 2):
        over.evaluate(objective, step=1, stage=stage)
    assert len(asked) == 3


def test_the_sample_is_the_same_in_every_run_and_holds_whole_users(shop: Shop) -> None:
    one, other = watch(shop, None).queries, watch(shop, None).queries
    assert [(q.user, q.num_known) for q in one] == [(q.user, q.num_known) for q in other]
    assert {q.now_ms < shop.data.test_from_ms and q.now_ms >= shop.data.train_until_ms for q in one} == {True}


def test_a_run_may_go_without_evaluations(shop: Shop, tmp_path: Path) -> None:
    over, towers = watch(shop, tmp_path, msgspec.structs.replace(ALL, evaluations=0)), Towers(fresh(shop).objective)
    over.begin(fresh(shop), {})
    over.step(report(1, 0.9, 10.0), towers)
    over.evaluate(towers.objective, 1, 1)
    assert (towers.asked, read_journal(tmp_path).evaluations) == (0, [])


def test_an_evaluation_says_what_was_ranked(shop: Shop, tmp_path: Path) -> None:
    over = watch(shop, tmp_path)
    over.evaluate(fresh(shop).objective, step=3, stage=1)
    (line,) = read_journal(tmp_path).evaluations
    assert (line.step, line.stage, line.candidates) == (3, 1, "full catalogue, 400 items, past items kept")
    assert line.metrics["queries"] == len(over.queries)
    assert np.isfinite(list(line.metrics.values())).all()
