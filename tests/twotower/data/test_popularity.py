"""Decayed counts by hand, and the logs they become."""

import numpy as np

from twotower.data.features import DAY_MS
from twotower.data.popularity import decayed_counts, fade, log_popularity


def test_an_event_one_half_life_old_counts_half() -> None:
    counts = decayed_counts(np.array([0, 0, 2]), np.array([0, 14, 14]) * DAY_MS, 14 * DAY_MS, (14.0, 7.0), 3)
    np.testing.assert_allclose(counts, [[1.5, 0, 1], [1.25, 0, 1]])


def test_counting_in_two_parts_is_counting_at_once() -> None:
    rows, times = np.array([0, 1, 1]), np.array([0, 3, 9]) * DAY_MS
    early = decayed_counts(rows[:2], times[:2], 5 * DAY_MS, (10.0,), 2)
    parts = fade(early, 4 * DAY_MS, (10.0,)) + decayed_counts(rows[2:], times[2:], 9 * DAY_MS, (10.0,), 2)
    np.testing.assert_allclose(parts, decayed_counts(rows, times, 9 * DAY_MS, (10.0,), 2))


def test_shares_sum_to_one_and_nothing_is_impossible() -> None:
    (log_share,) = log_popularity(np.array([[3.0, 0.0, 1.0]]))
    np.testing.assert_allclose(np.exp(log_share).sum(), 1.0, rtol=1e-6)
    assert log_share[0] > log_share[2] > log_share[1] > -np.inf


def test_a_trend_is_bought_over_expected_shrunk_where_few_events_tell() -> None:
    """Shares are about .5, .25 and .25; of 400 recent events 200 were expected of the first, 100 of each other."""
    trend = log_popularity(np.array([[2e6, 1e6, 1e6], [200.0, 200.0, 0.0]]))[1]
    np.testing.assert_allclose(np.exp(trend), [1.0, 203 / 103, 3 / 103], rtol=1e-4)
    quiet = log_popularity(np.array([[2e6, 1e6, 1e6], [2.0, 2.0, 0.0]]))[1]
    assert 0 < quiet[1] < trend[1]
    assert trend[2] < quiet[2] < 0
