"""Sampling changes the variance of the loss, not its mean."""

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.training.conftest import Shop
from training.data.batches import BatchSampler
from training.losses.candidates import PROPOSALS, certain_items, draw_candidates, inclusion_probabilities, owner_share, propose
from training.recipes.config import Negatives, StageConfig


def test_a_candidate_weighs_one_over_its_probability(shop: Shop) -> None:
    """Draw many times: each item is a candidate as often as its weight says, up to the share taken from training's end."""
    sampler = shop.sampler()
    share_N = np.zeros_like(owner_share(sampler, len(shop.items)))
    rng = np.random.default_rng(0)
    batch = sampler.sample(rng)
    certain = np.unique(np.concatenate([batch.past.rows_M, batch.answer_rows_A, batch.histories.item_rows_BL.ravel()]))
    counts, draws = np.zeros(len(shop.items)), 300
    for _ in range(draws):
        drawn = draw_candidates(rng, batch, share_N, num_uniform=100, num_windows=3)
        counts[drawn.rows_C] += 1
    uniform_only = np.setdiff1d(np.arange(len(shop.items)), certain)
    np.testing.assert_allclose(counts[uniform_only].mean() / draws, 100 / len(shop.items), rtol=0.05)
    np.testing.assert_allclose(drawn.log_weight_C, np.log(len(shop.items) / 100), rtol=1e-5)


def test_popular_items_weigh_less_because_they_come_more_often(shop: Shop) -> None:
    sampler = shop.sampler()
    share_N = owner_share(sampler, len(shop.items))
    assert share_N.min() >= 0
    assert share_N.max() <= 1
    batch = sampler.sample(np.random.default_rng(0))
    drawn = draw_candidates(np.random.default_rng(1), batch, share_N, 100, 3)
    common, rare = np.argmax(share_N[drawn.rows_C]), np.argmin(share_N[drawn.rows_C])
    assert drawn.log_weight_C[common] < drawn.log_weight_C[rare]


def test_the_candidates_of_every_query_stand_for_the_whole_catalogue(shop: Shop) -> None:
    """With equal scores the corrected sum must be the number of items, on average over batches: nothing is counted twice,
    neither what other windows bring nor what the query's own user buys later."""
    config = msgspec.structs.replace(shop.config, max_queries=1000)
    sampler, num_items = BatchSampler(shop.data.log, shop.data.train_until_ms, shop.model, config), len(shop.items)
    share_N, rng = owner_share(sampler, num_items), np.random.default_rng(0)
    ratios = []
    for _ in range(300):
        batch = sampler.sample(rng)
        drawn = draw_candidates(rng, batch, share_N, 60, shop.config.batch_windows)
        certain = certain_items(batch, drawn)[batch.window_Q]
        sums = torch.where(certain, 0.0, torch.from_numpy(drawn.log_weight_C)).exp().sum(1)
        ratios.append(float(sums.mean()) / num_items)
    # Queries that name an event type leave the rest of their basket out, which the probability does not know: a few percent.
    assert abs(np.mean(ratios) - 1) < 0.06


@pytest.mark.parametrize("name", PROPOSALS)
def test_a_pool_holds_items_as_often_as_it_says(name: Negatives) -> None:
    share_N = np.array([0.0, 0.1, 0.2, 0.3, 5.0, 0.0])
    proposal, rng = PROPOSALS[name](share_N, 3), np.random.default_rng(0)
    counts = np.zeros(6)
    for _ in range(4_000):
        drawn = proposal.draw(rng)
        assert (np.diff(drawn.rows_C) > 0).all()
        counts[drawn.rows_C] += 1
    assert proposal.inclusion_N.sum() == pytest.approx(3)
    np.testing.assert_allclose(counts / 4_000, proposal.inclusion_N, atol=0.03)


def test_uniform_negatives_weigh_alike_and_popular_ones_less() -> None:
    share_N = np.array([0.0, 0.1, 0.2, 0.3, 5.0, 0.0])
    np.testing.assert_allclose(PROPOSALS["uniform"](share_N, 3).log_weight_N, np.log(2), rtol=1e-6)
    popular = PROPOSALS["popular"](share_N, 3)
    assert popular.log_weight_N[4] == 0, "drawn for certain, it stands for itself alone"
    assert (np.diff(popular.log_weight_N[[0, 1, 2, 3, 4]]) < 0).all()
    assert not PROPOSALS["popular_uncorrected"](share_N, 3).log_weight_N.any()


def test_no_popular_pools_weight_exceeds_twice_the_uniform_ones() -> None:
    share_N = np.random.default_rng(0).pareto(1.0, 1000)
    for size in (1, 10, 500, 999):
        popular, uniform = (PROPOSALS[name](share_N, size).log_weight_N for name in ("popular", "uniform"))
        assert popular.max() <= uniform.max() + np.log(2) + 1e-6


@given(st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=30), st.data())
def test_inclusion_probabilities_add_up_and_keep_proportion(sizes: list[float], data: st.DataObject) -> None:
    expected = data.draw(st.integers(1, len(sizes) - 1))
    inclusion_N = inclusion_probabilities(np.array(sizes), expected)
    assert inclusion_N.sum() == pytest.approx(expected)
    assert inclusion_N.min() > 0
    assert inclusion_N.max() <= 1
    below = inclusion_N < 1
    ratio = inclusion_N[below] / np.array(sizes)[below]
    np.testing.assert_allclose(ratio, ratio[0] if len(ratio) else 0.0, rtol=1e-9)


def test_as_many_negatives_as_items_are_the_whole_catalogue() -> None:
    stage = StageConfig(share=1.0, num_negatives=6, train_embedder=False)
    assert propose(stage, np.ones(6)) is None
    assert propose(stage, np.ones(7)) is not None
    assert propose(msgspec.structs.replace(stage, num_negatives=None), np.ones(7)) is None
