"""Sampling changes the variance of the loss, not its mean."""

import msgspec
import numpy as np
import torch

from tests.training.conftest import Shop
from training.batches import BatchSampler
from training.loss import correct_for_sampling
from training.negatives import certain_items, draw_candidates, owner_share


def test_a_candidate_weighs_one_over_its_probability(shop: Shop) -> None:
    """Draw many times: each item is a candidate as often as its weight says, up to the share taken from training's end."""
    sampler = shop.sampler()
    share_N = np.zeros_like(owner_share(sampler, len(shop.items)))
    rng = np.random.default_rng(0)
    batch = sampler.sample(rng)
    certain = np.unique(np.concatenate([batch.own.rows_M, batch.answer_rows_A, batch.histories.item_rows_BL.ravel()]))
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
        sums = correct_for_sampling(torch.zeros(certain.shape), torch.from_numpy(drawn.log_weight_C), certain).exp().sum(1)
        ratios.append(float(sums.mean()) / num_items)
    # Queries that name an event type leave the rest of their basket out, which the probability does not know: a few percent.
    assert abs(np.mean(ratios) - 1) < 0.06


def test_the_corrected_sum_is_unbiased() -> None:
    torch.manual_seed(0)
    scores_N, num_drawn = torch.randn(40), 10
    truth = scores_N.exp().sum()
    estimates = []
    for _ in range(4000):
        others = torch.randperm(38)[:num_drawn] + 2  # items 0 and 1 are the query's own
        rows = torch.cat([torch.tensor([0, 1]), others])
        log_weight = torch.full((len(rows),), float(np.log(38 / num_drawn)))
        certain = (rows < 2)[None]
        corrected = correct_for_sampling(scores_N[rows][None], log_weight, certain)
        estimates.append(corrected.exp().sum())
    assert abs(torch.stack(estimates).mean() / truth - 1) < 0.02
