"""Two stages, seeded; the embedder stands still in the second."""

import math

import msgspec
import numpy as np
import pytest
import torch

from tests.training.conftest import LEARNS, Shop
from training.config import StageConfig, TrainConfig
from training.loop import TrainState, learning_rate, prepare_training, train


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
    one_stage = StageConfig(share=1.0, num_uniform=None, train_embedder=False, max_steps=3)
    config = msgspec.structs.replace(shop.config, stages=(one_stage,))
    inputs, state = prepare_training(config, shop.model, shop.items, shop.sampler(), shop.data.snapshots)
    before = [p.clone() for p in state.objective.embedder.parameters()]
    moved = state.objective.contextualizer.query_out.weight.clone()
    train(inputs, state)
    assert all(torch.equal(a, b) for a, b in zip(before, state.objective.embedder.parameters(), strict=True))
    assert not torch.equal(moved, state.objective.contextualizer.query_out.weight)


def test_the_learning_rate_warms_up_then_falls_as_a_cosine(shop: Shop) -> None:
    config = msgspec.structs.replace(shop.config, learning_rate=2e-3, warmup=0.05)
    assert learning_rate(0.05, 512, config) == pytest.approx(2e-3 * 0.5 * (1 + math.cos(math.pi * 0.05)))
    assert learning_rate(0.025, 512, config) == pytest.approx(0.5 * 2e-3 * 0.5 * (1 + math.cos(math.pi * 0.025)))
    assert learning_rate(1.0, 512, config) == 0
    assert learning_rate(0.5, 128, config) == pytest.approx(learning_rate(0.5, 512, config) / 2)


def test_a_run_keeps_to_its_minutes(shop: Shop) -> None:
    state = trained(shop, msgspec.structs.replace(shop.config, minutes=1e-6))
    assert state.step <= 2
