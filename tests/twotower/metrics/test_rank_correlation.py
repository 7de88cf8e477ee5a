"""Rank correlations worked by hand."""

import numpy as np
import pytest

from twotower.metrics.rank_correlation import mean_ranks, spearman


def test_equal_values_share_the_mean_of_their_places() -> None:
    assert mean_ranks(np.array([3.0, 1.0, 3.0, 2.0, 3.0])).tolist() == [4.0, 1.0, 4.0, 2.0, 4.0]


def test_spearman_by_hand() -> None:
    """Without ties 1 - 6 sum d^2 / (n (n^2 - 1)): ranks 1 2 3 4 against 2 1 4 3 give 1 - 6 * 4 / 60 = .6."""
    columns = np.array([[1.0, 20.0, -1.0], [2.0, 10.0, -8.0], [3.0, 40.0, -27.0], [4.0, 30.0, -64.0]])
    np.testing.assert_allclose(spearman(columns), [[1, 0.6, -1], [0.6, 1, -0.6], [-1, -0.6, 1]], atol=1e-12)


def test_spearman_with_ties_is_the_correlation_of_mean_ranks() -> None:
    """Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5."""
    columns = np.array([[0.0, 1.0], [5.0, 2.0], [5.0, 3.0], [9.0, 4.0]])
    assert spearman(columns)[0, 1] == pytest.approx(4.5 / np.sqrt(4.5 * 5))


def test_a_metric_that_never_moved_correlates_with_nothing() -> None:
    correlation = spearman(np.array([[1.0, 7.0], [2.0, 7.0], [3.0, 7.0]]))
    assert correlation[0, 0] == pytest.approx(1.0)
    assert np.isnan(correlation[1]).all()
