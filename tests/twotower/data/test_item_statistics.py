"""Statistics kept one event at a time equal those computed at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.data.features import DAY_MS
from twotower.data.item_statistics import ItemStatistics, add_event, item_statistics, past_features


def test_statistics_by_hand() -> None:
    rows, days = np.array([5, 5, 9]), np.array([0, 7, 3])
    statistics = item_statistics(rows, days * DAY_MS)
    assert statistics.item_rows_M.tolist() == [5, 9]
    assert statistics.count_M.tolist() == [2, 1]
    np.testing.assert_allclose(statistics.decayed_M3[0], [1.5, 1 + 0.5 ** (7 / 30), 1 + 0.5 ** (7 / 90)])
    features = past_features(statistics, 14 * DAY_MS)
    np.testing.assert_allclose(features[0, 4], np.log1p(7), rtol=1e-6)
    np.testing.assert_allclose(features[0, 5], np.log1p(1.0), rtol=1e-6)  # a week late on a weekly habit
    assert features[1, 5] == 0  # one purchase is no habit


@given(st.lists(st.integers(0, 400 * DAY_MS), min_size=1, max_size=30))
def test_one_event_at_a_time_in_any_order_gives_the_same(times: list[int]) -> None:
    count, first, last, decayed = 1, times[0], times[0], (1.0, 1.0, 1.0)
    for time in times[1:]:
        count, first, last, decayed = add_event(count, first, last, decayed, time)
    at_once = item_statistics(np.zeros(len(times), np.int64), np.array(times))
    assert (count, first, last) == (at_once.count_M[0], at_once.first_ms_M[0], at_once.last_ms_M[0])
    assert decayed == pytest.approx(at_once.decayed_M3[0], rel=1e-9)


def test_no_history_has_no_statistics() -> None:
    assert len(item_statistics(np.zeros(0, np.int64), np.zeros(0, np.int64))) == 0
    assert past_features(ItemStatistics.empty(), 0).shape == (0, 6)
