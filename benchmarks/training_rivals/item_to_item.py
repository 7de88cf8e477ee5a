"""Counters of which items share users: EASE and item-kNN, which score an item by the past items of the user.

They count the items with at least `min_events` training events; all others come after these, by popularity. Memory and time are
those of one matrix [K, K]: for 12,000 items 580 MB, four times that while EASE inverts it, and about a minute on one core.

K: counted items, N: items of the catalogue, T: days, Q: queries, M: past items of a user
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.data.event_log import EventLog, train_counts
from training.data.popularity_snapshots import PopularitySnapshots
from training.evaluation.rankers import Query
from twotower.data.features import DAY_MS, Floats, Ints
from twotower.data.item_statistics import ItemStatistics

SHRINK = 20.0  # added to the denominator of the cosine, so that a pair that met by chance counts little
RECENT_DAYS = 14


@dataclass(frozen=True)
class SharedUsers:
    """How many users had both items of each pair in training."""

    rows_K: Ints  # in the catalogue
    users_KK: npt.NDArray[np.float32]


@dataclass(frozen=True)
class ItemToItem:
    """The score of an item is the sum of its weights from the past items of the user."""

    rows_K: Ints
    weights_KK: Tensor  # from a past item (row) to a candidate (column)
    snapshots: PopularitySnapshots
    has_probabilities: bool = False

    def score(self, queries: Sequence[Query], statistics: Sequence[ItemStatistics], out_QN: Tensor) -> None:
        """Write the sums."""
        for row_N, query, past in zip(out_QN.numpy(), queries, statistics, strict=True):
            sums_K = self.sums(past)
            row_N[:] = np.exp(self.snapshots.day(query.now_ms)[0]) + (sums_K.min() - 1)
            row_N[self.rows_K] = sums_K

    def sums(self, past: ItemStatistics) -> Floats:
        """The scores of the counted items, [K]."""
        mine = np.flatnonzero(np.isin(self.rows_K, past.item_rows_M))
        sums: Floats = self.weights_KK[torch.from_numpy(mine)].sum(0).numpy()
        return sums


@dataclass(frozen=True)
class RecentCounts:
    """Events of the counted items before each day since `start_ms`, [T, K]."""

    before_TK: npt.NDArray[np.int32]
    start_ms: int

    def at(self, time_ms: int) -> npt.NDArray[np.int32]:
        """Events of the RECENT_DAYS whole days before the day of `time_ms`, [K]."""
        day = min((time_ms - self.start_ms) // DAY_MS, len(self.before_TK) - 1)
        counts: npt.NDArray[np.int32] = self.before_TK[day] - self.before_TK[max(day - RECENT_DAYS, 0)]
        return counts


@dataclass(frozen=True)
class TimesRecent:
    """The score of an item is its sum times the square root of its recent events. Items without either come after, by popularity.

    A user whose taste is the same buys what is in season and on offer, so this finds more new items than either factor does.
    """

    items: ItemToItem
    recent: RecentCounts
    has_probabilities: bool = False

    def score(self, queries: Sequence[Query], statistics: Sequence[ItemStatistics], out_QN: Tensor) -> None:
        """Write the products."""
        for row_N, query, past in zip(out_QN.numpy(), queries, statistics, strict=True):
            products_K = self.items.sums(past).clip(0) * np.sqrt(self.recent.at(query.now_ms))
            row_N[:] = np.exp(self.items.snapshots.day(query.now_ms)[0]) - 1
            scored = products_K > 0
            row_N[self.items.rows_K[scored]] = products_K[scored]


def shared_users(log: EventLog, until_ms: int, num_items: int, min_events: int) -> SharedUsers:
    """Count the pairs in the events before `until_ms`."""
    rows_K = np.flatnonzero(train_counts(log, until_ms, num_items) >= min_events)
    place_N = np.full(num_items, -1)
    place_N[rows_K] = np.arange(len(rows_K))
    users_KK = np.zeros((len(rows_K), len(rows_K)), np.float32)
    for user in range(log.num_users):
        start, end = log.span(user)
        stop = start + int(np.searchsorted(log.times_ms_E[start:end], until_ms))
        mine = np.unique(place_N[log.item_rows_E[start:stop]])
        mine = mine[mine >= 0]
        users_KK[np.ix_(mine, mine)] += 1
    return SharedUsers(rows_K, users_KK)


def ease(shared: SharedUsers, snapshots: PopularitySnapshots, penalty: float) -> ItemToItem:
    """EASE (Steck 2019, equation 8): the linear model of each item by the others with the least squared error plus penalty."""
    inverse_KK = torch.from_numpy(shared.users_KK.copy())
    inverse_KK.diagonal().add_(penalty)
    inverse_KK = torch.cholesky_inverse(torch.linalg.cholesky(inverse_KK))
    weights_KK = inverse_KK.div_(-inverse_KK.diagonal().clone())
    weights_KK.fill_diagonal_(0)
    return ItemToItem(shared.rows_K, weights_KK, snapshots)


def item_neighbours(shared: SharedUsers, snapshots: PopularitySnapshots) -> ItemToItem:
    """Item-kNN: the weight is the cosine of two items' users, shrunk by SHRINK. All items are neighbours."""
    users_KK = torch.from_numpy(shared.users_KK)
    norms_K = users_KK.diagonal().sqrt()
    weights_KK = torch.outer(norms_K, norms_K).add_(SHRINK).reciprocal_().mul_(users_KK)
    weights_KK.fill_diagonal_(0)
    return ItemToItem(shared.rows_K, weights_KK, snapshots)


def recent_counts(log: EventLog, rows_K: Ints, num_items: int) -> RecentCounts:
    """Count the events of each day."""
    start_ms = int(log.times_ms_E.min()) // DAY_MS * DAY_MS
    day_E = (log.times_ms_E - start_ms) // DAY_MS
    before_TK = np.zeros((int(day_E.max()) + 2, len(rows_K)), np.int32)
    order_E = np.argsort(day_E, kind="stable")
    bounds = np.searchsorted(day_E[order_E], np.arange(len(before_TK)))
    for day in range(1, len(before_TK)):
        events = log.item_rows_E[order_E[bounds[day - 1] : bounds[day]]]
        before_TK[day] = before_TK[day - 1] + np.bincount(events, minlength=num_items)[rows_K]
    return RecentCounts(before_TK, start_ms)
