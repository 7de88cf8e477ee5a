import numpy as np
import pytest
import torch

from benchmarks.training_rivals.counters import Mixture, NearestNeighbours, UserVectors, most_alike, nearest_neighbours, personal
from training.data.popularity_snapshots import PopularitySnapshots
from training.data.read import Data
from training.evaluation.rankers import Query, Ranker
from twotower.data.features import DAY_MS
from twotower.data.item_statistics import ItemStatistics, item_statistics

NOW_MS = 1000 * DAY_MS
NOBODY = ItemStatistics.empty()
# Five items; the last is the most popular.
POPULARITY = PopularitySnapshots(np.log(np.array([[[0.1, 0.1, 0.2, 0.2, 0.4]]], np.float32)), 0, DAY_MS)


def history(*events: tuple[int, int]) -> ItemStatistics:
    """(item, days ago) of every event."""
    rows, days = zip(*events, strict=True)
    return item_statistics(np.array(rows), NOW_MS - np.array(days) * DAY_MS)


def scores(ranker: Ranker, past: ItemStatistics, user: int = 0) -> torch.Tensor:
    query = Query(user, len(past), NOW_MS, np.array([0]))
    out_QN = torch.full((1, 5), torch.nan)
    ranker.score([query], [past], out_QN)
    return out_QN[0]


def test_a_purchase_of_ninety_days_ago_counts_half() -> None:
    assert personal(history((0, 0), (3, 90), (3, 0)), NOW_MS).tolist() == pytest.approx([1.0, 1.5])


def test_the_mixture_is_the_weighted_mean_of_two_distributions() -> None:
    # Own shares: item 0 has 3 of 4 purchases, item 4 has 1 of 4.
    past = history((0, 0), (0, 0), (0, 0), (4, 0))

    probabilities = scores(Mixture(POPULARITY, share=0.4), past).exp()

    expected = [0.4 * 0.75 + 0.6 * 0.1, 0.6 * 0.1, 0.6 * 0.2, 0.6 * 0.2, 0.4 * 0.25 + 0.6 * 0.4]
    assert probabilities.tolist() == pytest.approx(expected, rel=1e-5)
    assert probabilities.sum().item() == pytest.approx(1.0, rel=1e-5)


def test_the_mixture_knows_only_popularity_of_a_new_user() -> None:
    assert scores(Mixture(POPULARITY), NOBODY).exp().tolist() == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.4], rel=1e-5)


def test_the_most_alike_have_the_highest_cosine_and_nobody_is_like_themselves() -> None:
    # Users 0 and 2 share their items; user 1 has others.
    vectors = UserVectors(np.array([0, 2, 3, 5]), np.array([0, 1, 4, 0, 1]), np.array([1, 0.5, 1, 1, 1], np.float32))

    neighbours_UK = most_alike(vectors, num_items=5, count=1)

    assert neighbours_UK[:, 0].tolist()[::2] == [2, 0]
    assert neighbours_UK[1, 0] != 1


def test_neighbours_bring_what_the_user_never_had_behind_what_they_had_and_popularity_ranks_the_rest() -> None:
    vectors = UserVectors(np.array([0, 1, 2]), np.array([0, 2]), np.array([1.0, 1.0], np.float32))
    ranker = NearestNeighbours(vectors, np.array([[1], [0]]), POPULARITY, past_share=0.8)

    order = scores(ranker, history((0, 0))).argsort(descending=True).tolist()

    assert order == [0, 2, 4, 3, 1]


def test_neighbours_are_found_from_the_past_alone(data: Data) -> None:
    ranker = nearest_neighbours(data.log, data.test_from_ms, data.snapshots)

    assert ranker.neighbours_UK.shape == (data.log.num_users, data.log.num_users - 1)
    user = 7
    start, stop = data.log.span(user)
    known = data.log.item_rows_E[start:stop][data.log.times_ms_E[start:stop] < data.test_from_ms]
    assert set(ranker.vectors.of(np.array([user]))[0].tolist()) == set(known.tolist())
