"""Metrics by hand."""

import numpy as np
import pytest

from training.metrics import Rankings, likelihood, ndcg, summarise, tied_ranks, user_bootstrap


def rankings() -> Rankings:
    """Two users. The first query ranks its two answers 1 and 11, the second its only answer 3."""
    return Rankings(
        user_Q=np.array([0, 1]),
        answer_query_A=np.array([0, 0, 1]),
        rank_A=np.array([1.0, 11.0, 3.0]),
        unseen_rank_A=np.array([1.0, 9.0, 3.0]),
        nll_A=np.array([1.0, 2.0, 3.0]),
        entropy_Q=np.array([0.5, 1.5]),
        own_A=np.array([True, False, False]),
        train_count_A=np.array([40, 0, 7]),
        top10_QK=np.array([[0, 1], [1, 2]]),
    )


def test_every_metric_by_hand() -> None:
    metrics = summarise(rankings(), num_items=30)
    assert metrics["recall@1"] == pytest.approx(0.25)
    assert metrics["recall@10"] == pytest.approx(0.75)
    assert metrics["recall@20"] == 1.0
    ideal = 1 + 1 / np.log2(3)
    assert metrics["ndcg@10"] == pytest.approx((1 / ideal + 1 / np.log2(4)) / 2)
    assert metrics["mrr@10"] == pytest.approx((1 + 1 / 3) / 2)
    assert metrics["hit_rate@10"] == 1.0
    assert metrics["repeat_recall@10"] == 1.0
    assert metrics["explore_recall@10"] == pytest.approx(0.5)
    assert metrics["unseen_recall@10"] == 1.0
    assert metrics["cold_recall@10"] == 0.0
    assert metrics["recall@10[train count 30+]"] == 1.0
    assert metrics["set_loss"] == pytest.approx(2.0)
    assert metrics["perplexity"] == pytest.approx(np.exp(2))
    assert metrics["entropy"] == pytest.approx(1.0)
    assert metrics["coverage@10"] == pytest.approx(0.1)


def test_ties_share_their_mean_rank() -> None:
    scores = np.array([5.0, 3.0, 3.0, 3.0, 1.0], np.float32)
    overall, unseen = tied_ranks(scores, np.array([1, 4]), own=np.array([0, 2]))
    assert overall.tolist() == [3.0, 5.0]
    assert unseen.tolist() == [1.5, 3.0]


def test_likelihood_of_a_known_distribution() -> None:
    log_partition, entropy = likelihood(np.log(np.array([1.0, 1.0, 2.0], np.float32)) + 50)
    assert log_partition == pytest.approx(50 + np.log(4), rel=1e-6)
    assert entropy == pytest.approx(1.5 * np.log(2), rel=1e-4)


def test_a_ranker_that_knows_nothing_gains_nothing_from_ties() -> None:
    overall, _ = tied_ranks(np.zeros(101, np.float32), np.array([0]), own=np.zeros(0, np.int64))
    assert overall.tolist() == [51.0]


def test_ndcg_of_a_perfect_list_is_one() -> None:
    perfect = Rankings(
        **{f: getattr(rankings(), f) for f in Rankings.__dataclass_fields__} | {"rank_A": np.array([1.0, 2.0, 1.0])}
    )
    np.testing.assert_allclose(ndcg(perfect, 10), 1.0)


def test_the_bootstrap_resamples_users_not_queries() -> None:
    """A thousand equal queries of one user are one observation: no interval at all."""
    low, high = user_bootstrap(np.ones(1000), np.zeros(1000, np.int64))
    assert low == high == 1.0
    values, users = np.repeat([0.0, 1.0], 500), np.repeat([0, 1], 500)
    low, high = user_bootstrap(values, users)
    assert (low, high) == (0.0, 1.0)
