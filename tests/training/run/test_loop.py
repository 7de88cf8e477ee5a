"""Training has two seeded stages, and the embedder is frozen in the second."""

import math
import threading
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch

import training.run.loop
from tests.training.conftest import LEARNS, Shop
from training.recipes.config import Negatives, StageConfig, TrainConfig
from training.run.checkpoint import RunDirectory, identify
from training.run.distributed import World
from training.run.diverged import TrainingDiverged
from training.run.loop import StepReport, TrainState, learning_rate, prepare_training, train
from twotower.data.features import EncodedRows
from twotower.errors import EnvironmentProblem


def trained(shop: Shop, config: TrainConfig) -> TrainState:
    inputs, state = prepare_training(config, shop.model, shop.items, shop.sampler(), shop.data.snapshots)
    return train(inputs, state)


def test_the_same_seed_gives_the_same_losses(shop: Shop) -> None:
    first, second = trained(shop, shop.config), trained(shop, shop.config)
    assert first.losses == second.losses
    assert len(first.losses) == 10


def test_training_learns(shop: Shop) -> None:
    state = trained(shop, LEARNS)
    assert np.mean(state.losses[-10:]) < np.mean(state.losses[:5]) - 0.3


def test_stage_2_leaves_the_embedder_as_it_is(shop: Shop) -> None:
    one_stage = StageConfig(share=1.0, num_negatives=None, train_embedder=False, max_steps=3)
    config = msgspec.structs.replace(shop.config, stages=(one_stage,))
    inputs, state = prepare_training(config, shop.model, shop.items, shop.sampler(), shop.data.snapshots)
    before = [p.clone() for p in state.objective.embedder.parameters()]
    moved = state.objective.contextualizer.popularity_out.weight.clone()
    train(inputs, state)
    assert all(torch.equal(a, b) for a, b in zip(before, state.objective.embedder.parameters(), strict=True))
    assert not torch.equal(moved, state.objective.contextualizer.popularity_out.weight)


def test_a_corrected_pool_estimates_the_loss_of_the_whole_catalogue(shop: Shop) -> None:
    """Same batches and weights: the first step's loss differs by the pool's noise alone, and without logQ by more."""

    def first_loss(num_negatives: int | None, negatives: Negatives = "uniform") -> float:
        stage = StageConfig(share=1.0, num_negatives=num_negatives, negatives=negatives, train_embedder=False, max_steps=1)
        return trained(shop, msgspec.structs.replace(shop.config, stages=(stage,))).losses[0]

    exact = first_loss(None)
    assert first_loss(len(shop.items)) == exact
    uniform, popular = first_loss(100), first_loss(100, "popular")
    assert uniform != exact
    assert abs(uniform - exact) < 0.3
    assert abs(popular - exact) < 0.3
    assert first_loss(100, "popular_uncorrected") < min(uniform, popular) - 0.3


def test_the_learning_rate_warms_up_then_falls_as_a_cosine(shop: Shop) -> None:
    config = msgspec.structs.replace(shop.config, learning_rate=2e-3, warmup=0.05)
    assert learning_rate(0.05, 512, config) == pytest.approx(2e-3 * 0.5 * (1 + math.cos(math.pi * 0.05)))
    assert learning_rate(0.025, 512, config) == pytest.approx(0.5 * 2e-3 * 0.5 * (1 + math.cos(math.pi * 0.025)))
    assert learning_rate(1.0, 512, config) == 0
    assert learning_rate(0.5, 128, config) == pytest.approx(learning_rate(0.5, 512, config) / 2)


def test_a_run_with_minutes_keeps_to_them(shop: Shop) -> None:
    stages = tuple(msgspec.structs.replace(stage, max_steps=None) for stage in shop.config.stages)
    state = trained(shop, msgspec.structs.replace(shop.config, minutes=1e-6, stages=stages))
    assert state.step <= 2


def test_a_run_without_minutes_does_not_know_the_time(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = trained(shop, shop.config).losses
    hours = iter(range(0, 10**9, 3600))
    monkeypatch.setattr(training.run.loop, "time", SimpleNamespace(monotonic=lambda: next(hours)))
    assert trained(shop, shop.config).losses == expected


def test_batches_drawn_ahead_are_the_same_and_their_thread_ends_with_the_run(shop: Shop) -> None:
    expected = trained(shop, shop.config).losses
    assert trained(shop, msgspec.structs.replace(shop.config, prefetch=2)).losses == expected
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_a_step_tells_its_loss_its_gradient_norm_and_its_learning_rate(shop: Shop) -> None:
    reports: list[StepReport] = []
    inputs, state = prepare_training(shop.config, shop.model, shop.items, shop.sampler(), shop.data.snapshots)
    train(inputs, state, reports.append)
    assert [report.step for report in reports] == list(range(1, 11))
    assert [report.stage for report in reports] == [1] * 6 + [2] * 4
    assert [report.step_loss for report in reports] == state.losses
    assert all(report.gradient_norm > 0 for report in reports)
    assert reports[-1].progress == 1
    assert reports[-1].learning_rate < reports[5].learning_rate


def test_a_loss_that_is_not_a_number_stops_training_and_names_what_was_read(shop: Shop, tmp_path: Path) -> None:
    broken = EncodedRows(shop.items.slots_NS, shop.items.weights_NS, np.full_like(shop.items.dense_NF, np.nan))
    sampler = shop.sampler()
    files = RunDirectory(tmp_path, identify(shop.config, shop.model, broken, sampler), shop.data.item_ids)
    inputs, state = prepare_training(shop.config, shop.model, broken, sampler, shop.data.snapshots, files)
    with pytest.raises(TrainingDiverged, match=r"loss is nan .* step 0 .*diverged-step-0\.safetensors"):
        train(inputs, state)
    assert (tmp_path / "diverged-step-0.safetensors").exists()


def test_a_gradient_that_is_not_finite_stops_training_before_it_reaches_a_weight(shop: Shop) -> None:
    inputs, state = prepare_training(shop.config, shop.model, shop.items, shop.sampler(), shop.data.snapshots)
    before = [p.clone() for p in state.objective.parameters()]
    state.objective.contextualizer.popularity_out.weight.register_hook(lambda gradient: gradient * math.inf)  # type: ignore[no-untyped-call]
    with pytest.raises(TrainingDiverged, match=r"norm (nan|inf)"):
        train(inputs, state)
    assert all(torch.equal(a, b) for a, b in zip(before, state.objective.parameters(), strict=True))


def test_bf16_is_refused_where_it_would_be_slower(shop: Shop) -> None:
    config = msgspec.structs.replace(shop.config, precision="bf16")
    with pytest.raises(EnvironmentProblem, match="GPU"):
        prepare_training(config, shop.model, shop.items, shop.sampler(), shop.data.snapshots, world=World())


def test_more_processes_than_windows_are_refused(shop: Shop) -> None:
    with pytest.raises(EnvironmentProblem, match="4 processes cannot share 3 windows"):
        prepare_training(shop.config, shop.model, shop.items, shop.sampler(), shop.data.snapshots, world=World(rank=0, size=4))
