import numpy as np
import pytest
import torch

from benchmarks.training_rivals.item_to_item import (
    SHRINK,
    ItemToItem,
    RecentCounts,
    SharedUsers,
    TimesRecent,
    ease,
    item_neighbours,
    recent_counts,
    shared_users,
)
from training.data.popularity_snapshots import PopularitySnapshots
from training.data.read import Data
from training.evaluation.rankers import Query, Ranker
from twotower.data.features import DAY_MS, Floats
from twotower.data.item_statistics import item_statistics

NOW_MS = 1000 * DAY_MS
# Five items; the last is the most popular.
POPULARITY = PopularitySnapshots(np.log(np.array([[[0.1, 0.1, 0.2, 0.25, 0.35]]], np.float32)), 0, DAY_MS)
# Users (rows) and the items that they had; item 4 is not counted.
HAD_UK = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]], np.float64)
SHARED = SharedUsers(np.arange(4), (HAD_UK.T @ HAD_UK).astype(np.float32))


def scores(ranker: Ranker, *past: int) -> Floats:
    out_QN = torch.full((1, 5), torch.nan)
    history = item_statistics(np.array(past), np.full(len(past), NOW_MS - DAY_MS))
    ranker.score([Query(0, len(past), NOW_MS, np.array([0]))], [history], out_QN)
    return out_QN[0].numpy()


def test_ease_is_the_ridge_regression_of_each_item_on_the_others() -> None:
    penalty = 2.0
    weights_KK = ease(SHARED, POPULARITY, penalty).weights_KK.numpy()

    for item in range(4):
        others = np.delete(np.arange(4), item)
        had, wanted = HAD_UK[:, others], HAD_UK[:, item]
        solution = np.linalg.solve(had.T @ had + penalty * np.eye(3), had.T @ wanted)
        assert weights_KK[others, item] == pytest.approx(solution, abs=1e-6)
        assert weights_KK[item, item] == 0.0


def test_ease_leaves_the_counts_as_they_were() -> None:
    before = SHARED.users_KK.copy()
    ease(SHARED, POPULARITY, 2.0)
    assert (SHARED.users_KK == before).all()


def test_item_neighbours_weigh_by_the_shrunk_cosine() -> None:
    weights_KK = item_neighbours(SHARED, POPULARITY).weights_KK

    # Items 0 and 1 have three users each and share two of them.
    assert weights_KK[0, 1].item() == pytest.approx(2 / (3 + SHRINK))
    assert weights_KK[0, 0].item() == 0.0


def test_a_score_is_the_sum_over_past_items_and_what_is_not_counted_comes_last() -> None:
    weights_KK = torch.tensor([[0.0, 0.5, -1.0, 0.1], [0.2, 0.0, 0.3, 0.4], [0, 0, 0, 0], [0, 0, 0, 0]])
    ranker = ItemToItem(np.arange(4), weights_KK, POPULARITY)

    found = scores(ranker, 0, 1, 4)

    assert found[:4] == pytest.approx([0.2, 0.5, -0.7, 0.5])
    assert found[4] < found[:4].min()


def test_recent_events_weigh_by_their_root_and_the_rest_is_ordered_by_popularity() -> None:
    weights_KK = torch.tensor([[0.0, 0.5, -1.0, 0.6], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    before_TK = np.array([[0, 0, 0, 0], [9, 16, 25, 4]], np.int32)
    ranker = TimesRecent(ItemToItem(np.arange(4), weights_KK, POPULARITY), RecentCounts(before_TK, NOW_MS - DAY_MS))

    found = scores(ranker, 0)

    assert found[[1, 3]] == pytest.approx([0.5 * 4, 0.6 * 2])
    assert found[[4, 2, 0]] == pytest.approx([0.35 - 1, 0.2 - 1, 0.1 - 1])


def test_pairs_are_counted_once_for_each_user_and_from_training_alone(data: Data) -> None:
    shared = shared_users(data.log, data.train_until_ms, len(data.item_ids), min_events=3)

    had = [set(data.log.item_rows_E[slice(*data.log.span(u))][past(data, u)].tolist()) for u in range(data.log.num_users)]
    assert shared.rows_K.tolist() == np.flatnonzero(data.train_count_N >= 3).tolist()
    first, other = shared.rows_K[:2].tolist()
    assert shared.users_KK[0, 0] == sum(first in items for items in had)
    assert shared.users_KK[0, 1] == shared.users_KK[1, 0] == sum({first, other} <= items for items in had)


def past(data: Data, user: int) -> np.typing.NDArray[np.bool_]:
    start, stop = data.log.span(user)
    return data.log.times_ms_E[start:stop] < data.train_until_ms


def test_recent_counts_are_of_the_fourteen_whole_days_before_the_day(data: Data) -> None:
    rows_K = np.array([3, 1])
    now_ms = data.test_from_ms + DAY_MS // 3
    today_ms = now_ms // DAY_MS * DAY_MS

    counts_K = recent_counts(data.log, rows_K, len(data.item_ids)).at(now_ms)

    times = data.log.times_ms_E
    counted = data.log.item_rows_E[(times >= today_ms - 14 * DAY_MS) & (times < today_ms)]
    assert counts_K.tolist() == [(counted == row).sum() for row in rows_K]
