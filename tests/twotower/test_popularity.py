"""Decayed counts by hand, and the log they become."""

import numpy as np

from twotower.features import DAY_MS
from twotower.popularity import decayed_counts, fade, log_popularity


def test_an_event_one_half_life_old_counts_half() -> None:
    counts = decayed_counts(np.array([0, 0, 2]), np.array([0, 14, 14]) * DAY_MS, 14 * DAY_MS, (14.0, 7.0), 3)
    np.testing.assert_allclose(counts, [[1.5, 0, 1], [1.25, 0, 1]])


def test_counting_in_two_parts_is_counting_at_once() -> None:
    rows, times = np.array([0, 1, 1]), np.array([0, 3, 9]) * DAY_MS
    early = decayed_counts(rows[:2], times[:2], 5 * DAY_MS, (10.0,), 2)
    parts = fade(early, 4 * DAY_MS, (10.0,)) + decayed_counts(rows[2:], times[2:], 9 * DAY_MS, (10.0,), 2)
    np.testing.assert_allclose(parts, decayed_counts(rows, times, 9 * DAY_MS, (10.0,), 2))


def test_shares_sum_to_one_and_nothing_is_impossible() -> None:
    log_share = log_popularity(np.array([[3.0, 0.0, 1.0]]))
    assert log_share.shape == (3, 1)
    np.testing.assert_allclose(np.exp(log_share).sum(), 1.0, rtol=1e-6)
    assert log_share[0] > log_share[2] > log_share[1] > -np.inf
