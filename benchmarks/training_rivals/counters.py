"""Counting baselines: strong rankers for repeat purchases, which use only how often and how long ago items were bought.

U: users, N: items, M: past items of a user
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.data.event_log import EventLog
from training.data.popularity_snapshots import PopularitySnapshots
from training.evaluation.metrics import Array
from training.evaluation.rankers import Query
from twotower.data.features import DAY_MS, Floats, Ints
from twotower.data.item_statistics import HALF_LIVES_DAYS, ItemStatistics, item_statistics

HALF_LIFE_DAYS = 90.0  # of purchase counts; the best of 15 to 120 days on Complete Journey's November
NUM_NEIGHBOURS = 300
USERS_AT_ONCE = 64


def personal(past: ItemStatistics, now_ms: int) -> Array:
    """Decayed counts of the user's past items at `now_ms`, [M]."""
    decayed_M = past.decayed_M3[:, HALF_LIVES_DAYS.index(HALF_LIFE_DAYS)]
    faded: Array = decayed_M * 0.5 ** ((now_ms - past.last_ms_M) / DAY_MS / HALF_LIFE_DAYS)
    return faded


@dataclass(frozen=True)
class Mixture:
    """p = share * decayed shares of the user + (1 - share) * recent popularity. The only baseline here with a likelihood."""

    snapshots: PopularitySnapshots
    share: float = 0.4  # gives the least set loss on Complete Journey's November
    has_probabilities: bool = True

    def score(self, queries: Sequence[Query], statistics: Sequence[ItemStatistics], out_QN: Tensor) -> None:
        """Write log probabilities."""
        for row_N, query, past in zip(out_QN.numpy(), queries, statistics, strict=True):
            row_N[:] = self.snapshots.day(query.now_ms)[0]
            if len(past):
                counts_M = personal(past, query.now_ms)
                row_N += np.log(1 - self.share)
                mine_M = np.log(self.share * counts_M / counts_M.sum())
                row_N[past.item_rows_M] = np.logaddexp(row_N[past.item_rows_M], mine_M)


@dataclass(frozen=True)
class UserVectors:
    """Decayed counts of every user, scaled to a maximum of 1. Those of user u are at [offsets[u], offsets[u + 1])."""

    offsets_U1: Ints
    item_rows: Ints
    weights: Floats

    def of(self, users: Ints) -> tuple[Ints, Floats]:
        """Items and weights of several users, concatenated."""
        at = np.concatenate([np.arange(self.offsets_U1[u], self.offsets_U1[u + 1]) for u in users])
        return self.item_rows[at], self.weights[at]


@dataclass(frozen=True)
class NearestNeighbours:
    """After TIFU-KNN (Hu et al. 2020): decayed counts of the user, blended with those of the most similar users.

    Neighbours and their counts are of one moment before all queries; the user's counts are of the moment of the query.
    """

    vectors: UserVectors
    neighbours_UK: Ints
    snapshots: PopularitySnapshots
    past_share: float = 0.8
    has_probabilities: bool = False

    def score(self, queries: Sequence[Query], statistics: Sequence[ItemStatistics], out_QN: Tensor) -> None:
        """Write blended counts. Items that neither the user nor a neighbour had come last, by popularity."""
        for row_N, query, past in zip(out_QN.numpy(), queries, statistics, strict=True):
            np.exp(self.snapshots.day(query.now_ms)[0], out=row_N)
            row_N *= 1e-4
            neighbours = self.neighbours_UK[query.user]
            rows, weights = self.vectors.of(neighbours)
            np.add.at(row_N, rows, weights * ((1 - self.past_share) / len(neighbours)))
            if len(past):
                counts_M = personal(past, query.now_ms)
                row_N[past.item_rows_M] += self.past_share * counts_M / counts_M.max()


def nearest_neighbours(log: EventLog, until_ms: int, snapshots: PopularitySnapshots) -> NearestNeighbours:
    """The ranker with neighbours chosen by cosine similarity of the events before `until_ms`."""
    vectors = user_vectors(log, until_ms)
    return NearestNeighbours(vectors, most_alike(vectors, snapshots.table_PTN.shape[2], NUM_NEIGHBOURS), snapshots)


def user_vectors(log: EventLog, until_ms: int) -> UserVectors:
    """Decayed counts of every user at `until_ms`."""
    rows, weights = [np.zeros(0, np.int64)], [np.zeros(0)]
    for user in range(log.num_users):
        start, end = log.span(user)
        stop = start + int(np.searchsorted(log.times_ms_E[start:end], until_ms))
        past = item_statistics(log.item_rows_E[start:stop].astype(np.int64), log.times_ms_E[start:stop])
        counts_M = personal(past, until_ms)
        rows.append(past.item_rows_M)
        weights.append(counts_M / counts_M.max(initial=1e-9))
    offsets_U1 = np.cumsum([len(r) for r in rows])
    return UserVectors(offsets_U1, np.concatenate(rows), np.concatenate(weights).astype(np.float32))


def most_alike(vectors: UserVectors, num_items: int, count: int) -> Ints:
    """For each user the `count` other users with the highest cosine similarity, [U, K]."""
    num_users = len(vectors.offsets_U1) - 1
    owner = np.repeat(np.arange(num_users), np.diff(vectors.offsets_U1))
    norms_U = np.sqrt(np.bincount(owner, vectors.weights.astype(np.float64) ** 2, num_users)).clip(1e-9)
    unit = torch.from_numpy((vectors.weights / norms_U[owner]).astype(np.float32))
    places = torch.from_numpy(np.stack([owner, vectors.item_rows]))
    unit_UN = torch.sparse_coo_tensor(places, unit, (num_users, num_items), check_invariants=True)
    chosen = []
    for begin in range(0, num_users, USERS_AT_ONCE):
        users = torch.arange(begin, min(begin + USERS_AT_ONCE, num_users))
        cosine_UB = torch.sparse.mm(unit_UN, unit_UN.index_select(0, users).to_dense().T)
        cosine_UB[users, users - begin] = -1.0
        chosen.append(cosine_UB.topk(min(count, num_users - 1), 0).indices.T.numpy())
    return np.concatenate(chosen)
