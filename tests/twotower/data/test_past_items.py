"""Past items of several requests equal those of each alone."""

import numpy as np
import torch

from twotower.data.features import DAY_MS
from twotower.data.item_statistics import ItemStatistics, grouped_statistics, item_statistics, past_features
from twotower.data.past_items import join_statistics, past_items

ROWS = np.array([4, 2, 4, 9, 2, 2])
TIMES = np.array([1, 5, 6, 7, 7, 8]) * DAY_MS


def test_joined_users_keep_their_rows_and_their_moment() -> None:
    first, second = item_statistics(ROWS, TIMES), item_statistics(ROWS[:2], TIMES[:2])
    now_ms = np.array([20, 9]) * DAY_MS
    past = past_items(*join_statistics([first, ItemStatistics.empty(), second]), np.array([now_ms[0], 0, now_ms[1]]))
    assert past.rows_M.tolist() == [2, 4, 9, 2, 4]
    assert past.request_M.tolist() == [0, 0, 0, 2, 2]
    assert torch.equal(past.features_M6[:3], torch.from_numpy(past_features(first, int(now_ms[0]))))
    assert torch.equal(past.features_M6[3:], torch.from_numpy(past_features(second, int(now_ms[1]))))
    assert torch.equal(past.activity_Q6[1], torch.zeros(6)), "a user without history has bought nothing"


def test_grouped_statistics_are_those_of_each_owner_alone() -> None:
    owner = np.array([1, 0, 1, 1, 0, 1])
    whose, together = grouped_statistics(owner, ROWS, TIMES)
    for user in (0, 1):
        alone = item_statistics(ROWS[owner == user], TIMES[owner == user])
        mine = whose == user
        assert together.item_rows_M[mine].tolist() == alone.item_rows_M.tolist()
        assert together.count_M[mine].tolist() == alone.count_M.tolist()
        np.testing.assert_array_equal(together.decayed_M3[mine], alone.decayed_M3)


def test_activity_by_hand() -> None:
    """Six events of three items, the first 19 days before, all of them within one half-life of 90 days."""
    past = past_items(*join_statistics([item_statistics(ROWS, TIMES)]), np.array([20 * DAY_MS]))
    events, items, age, _, _, decayed90 = np.expm1(5 * past.activity_Q6[0].numpy().astype(float)).tolist()
    np.testing.assert_allclose([events, items, age], [6, 3, 19], rtol=1e-5)
    np.testing.assert_allclose(decayed90, (0.5 ** ((20 - TIMES / DAY_MS) / 90)).sum(), rtol=1e-5)
