"""Ranks and intervals by hand."""

import numpy as np
import pytest

from twotower.metrics.ranking import ndcg_at, recall_at, tied_ranks, user_bootstrap


def test_ties_share_their_mean_rank() -> None:
    scores = np.array([5.0, 3.0, 3.0, 3.0, 1.0], np.float32)
    overall, unseen = tied_ranks(scores, np.array([1, 4]), past=np.array([0, 2]))
    assert overall.tolist() == [3.0, 5.0]
    assert unseen.tolist() == [1.5, 3.0]


def test_a_ranker_that_knows_nothing_gains_nothing_from_ties() -> None:
    overall, _ = tied_ranks(np.zeros(101, np.float32), np.array([0]), past=np.zeros(0, np.int64))
    assert overall.tolist() == [51.0]


def test_the_bootstrap_resamples_users_not_queries() -> None:
    """A thousand equal queries of one user are one observation: no interval at all."""
    low, high = user_bootstrap(np.ones(1000), np.zeros(1000, np.int64))
    assert low == high == 1.0
    values, users = np.repeat([0.0, 1.0], 500), np.repeat([0, 1], 500)
    low, high = user_bootstrap(values, users)
    assert (low, high) == (0.0, 1.0)


def test_recall_and_ndcg_by_hand() -> None:
    """The first query ranks its two answers 1 and 11, the second has none, the third ranks its only answer 3."""
    rank, query = np.array([1.0, 11.0, 3.0]), np.array([0, 0, 2])
    assert recall_at(10, rank, query, 3).tolist() == pytest.approx([0.5, np.nan, 1.0], nan_ok=True)
    assert ndcg_at(10, rank, query, 3).tolist() == pytest.approx([1 / (1 + 1 / np.log2(3)), np.nan, 0.5], nan_ok=True)


def test_what_is_not_ranked_at_all_is_missed() -> None:
    rank, query = np.array([np.inf]), np.array([0])
    assert (recall_at(10, rank, query, 1).tolist(), ndcg_at(10, rank, query, 1).tolist()) == ([0.0], [0.0])
