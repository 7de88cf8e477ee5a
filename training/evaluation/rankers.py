"""Evaluation protocols and rankers: the model and the counting baselines are ranked by the same code.

Q: queries, N: items, V: vector width, D: model width, P: popularity dimensions
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from training.data.event_log import EventLog, basket_starts
from training.data.popularity_snapshots import PopularitySnapshots
from training.evaluation.metrics import Array, Flags, Rankings, batch_local, likelihood
from training.recipes.config import ProtocolName
from twotower.data.features import Ints
from twotower.data.item_statistics import ItemStatistics, item_statistics
from twotower.data.past_items import PastVectors, join_statistics, past_items
from twotower.data.window import anchor, collate
from twotower.metrics.ranking import tied_ranks
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer
from twotower.model.scoring import Request, queries_from_hidden

WINDOWS_PER_BATCH = 16
QUERIES_PER_BATCH = 64
MASKED = -1e9  # finite, so that the entropy stays a number
MAX_BASKETS = 256  # of one user: more belong to a robot, or to all visitors without an id


@dataclass(frozen=True, slots=True)
class Query:
    """One held-out question: after the first `num_known` events of `user`, what comes next at `now_ms`?"""

    user: int
    num_known: int
    now_ms: int
    answers: Ints
    mask_past_items: bool = False  # leave-one-out only: past items are no candidates


def next_basket(log: EventLog, from_ms: int, until_ms: int) -> list[Query]:
    """One query per basket in [from, until). All events strictly before it are known; its items are the answers.

    Of a user with more than MAX_BASKETS baskets so many are asked, evenly spread over the time.
    """
    return list(_baskets(log, from_ms, until_ms))


def next_event(log: EventLog, from_ms: int, until_ms: int) -> list[Query]:
    """One query per item of the baskets of `next_basket`. All events strictly before it are known; the item is the answer."""
    return [
        Query(q.user, q.num_known, q.now_ms, q.answers[i : i + 1])
        for q in _baskets(log, from_ms, until_ms)
        for i in range(len(q.answers))
    ]


def leave_one_out(log: EventLog, from_ms: int, until_ms: int) -> list[Query]:
    """One query per user with events in [from, until): the last is the answer. Events strictly before are known and masked."""
    queries = []
    for user in range(log.num_users):
        start, stop = log.span(user)
        times = log.times_ms_E[start:stop]
        low, high = np.searchsorted(times, (from_ms, until_ms)).tolist()
        if low < high:
            num_known = int(np.searchsorted(times, times[high - 1]))
            answers = log.item_rows_E[start + high - 1 : start + high].astype(np.int64)
            queries.append(Query(user, num_known, int(times[high - 1]), answers, mask_past_items=True))
    return queries


PROTOCOLS: dict[ProtocolName, Callable[[EventLog, int, int], list[Query]]] = {
    "next-basket": next_basket,
    "next-event": next_event,
    "leave-one-out": leave_one_out,
}


def _baskets(log: EventLog, from_ms: int, until_ms: int) -> Iterator[Query]:
    for user in range(log.num_users):
        start, stop = log.span(user)
        times = log.times_ms_E[start:stop]
        bounds = np.append(basket_starts(times), len(times))
        first, last = np.searchsorted(times[bounds[:-1]], (from_ms, until_ms))
        asked = np.linspace(first, last - 1, min(last - first, MAX_BASKETS)).round().astype(np.int64)
        for basket in asked.tolist():
            num_known, end = int(bounds[basket]), int(bounds[basket + 1])
            yield Query(
                user,
                num_known,
                int(times[num_known]),
                np.unique(log.item_rows_E[start + num_known : start + end]).astype(np.int64),
            )


class Ranker(Protocol):
    """Scores the whole catalogue for a batch of queries."""

    @property
    def has_probabilities(self) -> bool:
        """Whether the softmax of the scores is the predicted distribution."""

    def score(self, queries: Sequence[Query], statistics: Sequence[ItemStatistics], out_QN: Tensor) -> None:
        """Write the scores into `out_QN`. All batches share it: new ones would fragment the heap by gigabytes."""


@dataclass(frozen=True)
class Popularity:
    """Ranks by decayed global counts, refreshed every night."""

    snapshots: PopularitySnapshots
    has_probabilities: bool = True

    def score(self, queries: Sequence[Query], statistics: Sequence[ItemStatistics], out_QN: Tensor) -> None:  # noqa: ARG002
        """Log popularity on the day of each query, equal for all users."""
        for row, query in enumerate(queries):
            out_QN[row] = torch.from_numpy(self.snapshots.day(query.now_ms)[0])


@dataclass(frozen=True)
class PersonalFrequency:
    """Ranks by how often the user had an item. Global popularity orders ties and all other items."""

    snapshots: PopularitySnapshots
    has_probabilities: bool = False

    def score(self, queries: Sequence[Query], statistics: Sequence[ItemStatistics], out_QN: Tensor) -> None:
        """The user's counts plus global popularity, which is below one and so decides among equal counts only."""
        for row_N, query, past in zip(out_QN.numpy(), queries, statistics, strict=True):
            np.exp(self.snapshots.day(query.now_ms)[0], out=row_N)
            row_N[past.item_rows_M] += past.count_M


@dataclass(frozen=True)
class Model:
    """The two towers. Histories are cut by the anchored window exactly as the service cuts them."""

    contextualizer: Contextualizer
    config: ModelConfig
    vectors_ND: Tensor
    log: EventLog
    snapshots: PopularitySnapshots
    has_probabilities: bool = True

    @torch.inference_mode()
    def score(self, queries: Sequence[Query], statistics: Sequence[ItemStatistics], out_QN: Tensor) -> None:
        """Queries of one user and one anchor share a forward pass, because attention is causal."""
        config = self.config
        windows = [list(g) for _, g in groupby(range(len(queries)), lambda i: self._window(queries[i]))]
        hidden: list[Tensor] = []
        for begin in range(0, len(windows), WINDOWS_PER_BATCH):
            hidden.append(self._hidden(queries, windows[begin : begin + WINDOWS_PER_BATCH]))
        requests = [self._request(q, s) for q, s in zip(queries, statistics, strict=True)]
        now = np.array([q.now_ms for q in queries])
        past = past_items(*join_statistics(statistics), now)
        past_popularity_PM = self.snapshots.of_items(now[past.request_M.numpy()], past.rows_M.numpy())
        vectors = PastVectors.of(self.vectors_ND, past.rows_M, torch.from_numpy(past_popularity_PM).T)
        answered = queries_from_hidden(self.contextualizer, config, torch.cat(hidden), requests, past, vectors)
        torch.matmul(answered.vectors_QV[:, : config.width], self.vectors_ND.T, out=out_QN)
        # The nightly refresh changes only the popularity dimensions, so each query is scored with those of its day.
        for row_N, query, weights_P in zip(out_QN, queries, answered.vectors_QV[:, config.width :].tolist(), strict=True):
            for p, weight in enumerate(weights_P):
                row_N.add_(torch.from_numpy(self.snapshots.day(query.now_ms)[p]), alpha=weight)
        answered.add_repeat_scores(out_QN, torch.arange(out_QN.shape[1]))

    def _window(self, query: Query) -> tuple[int, int]:
        return query.user, anchor(query.num_known, self.config.window, self.config.page)

    def _hidden(self, queries: Sequence[Query], windows: Sequence[list[int]]) -> Tensor:
        histories = []
        for members in windows:
            user, first = self._window(queries[members[0]])
            start = self.log.span(user)[0]
            histories.append(self.log.history(start + first, start + max(queries[i].num_known for i in members)))
        batch = collate(histories)
        hidden_BLD = self.contextualizer(self.vectors_ND[batch.item_rows_BL], batch)
        window = [b for b, members in enumerate(windows) for _ in members]
        position = [max(queries[i].num_known - self._window(queries[i])[1] - 1, 0) for members in windows for i in members]
        picked: Tensor = hidden_BLD[window, position]
        return picked

    def _request(self, query: Query, statistics: ItemStatistics) -> Request:
        start = self.log.span(query.user)[0]
        last = start + query.num_known
        return Request(self.log.history(max(last - 1, start), last), statistics, query.now_ms)


@torch.inference_mode()
def rank(
    rankers: Mapping[str, Ranker],
    log: EventLog,
    queries: Sequence[Query],
    train_count_N: Ints,
    on_queries: Callable[[int], None] = lambda _: None,
) -> dict[str, Rankings]:
    """Rank the whole catalogue for every query by each ranker. The statistics of past items are computed once for all."""
    parts: dict[str, list[_Ranked]] = {name: [] for name in rankers}
    past: list[Flags] = []
    scores_QN = torch.empty(QUERIES_PER_BATCH, len(train_count_N))
    for begin in range(0, len(queries), QUERIES_PER_BATCH):
        batch = queries[begin : begin + QUERIES_PER_BATCH]
        statistics = [statistics_before(log, q) for q in batch]
        past.extend(np.isin(q.answers, s.item_rows_M) for q, s in zip(batch, statistics, strict=True))
        for name, ranker in rankers.items():
            parts[name].append(_rank_batch(ranker, batch, statistics, scores_QN[: len(batch)]))
        on_queries(len(batch))
    sizes = [len(q.answers) for q in queries]
    rows = np.concatenate([q.answers for q in queries])
    return {
        name: Rankings(
            user_Q=np.array([q.user for q in queries]),
            answer_query_A=np.repeat(np.arange(len(queries)), sizes),
            rank_A=np.concatenate([r.rank_A for r in ranked]),
            unseen_rank_A=np.concatenate([r.unseen_rank_A for r in ranked]),
            local_rank_A=np.concatenate([r.local_rank_A for r in ranked]),
            nll_A=np.concatenate([r.nll_A for r in ranked]),
            local_nll_A=np.concatenate([r.local_nll_A for r in ranked]),
            entropy_Q=np.concatenate([r.entropy_Q for r in ranked]),
            past_A=np.concatenate(past),
            train_count_A=train_count_N[rows],
            top10_QK=np.concatenate([r.top10_QK for r in ranked]),
        )
        for name, ranked in parts.items()
    }


class _Ranked(NamedTuple):
    """The fields of `Rankings` that depend on the ranker, for one batch."""

    rank_A: Array
    unseen_rank_A: Array
    local_rank_A: Array
    nll_A: Array
    local_nll_A: Array
    entropy_Q: Array
    top10_QK: Ints


def _rank_batch(ranker: Ranker, queries: Sequence[Query], statistics: Sequence[ItemStatistics], scores_QN: Tensor) -> _Ranked:
    """Ranks query by query, so that a row of scores stays in the cache and no second matrix is made."""
    ranker.score(queries, statistics, scores_QN)
    if not math.isfinite(scores_QN.sum().item()):
        raise ValueError("the ranker's scores are not finite: the model is broken, train it again")
    ranks, nll, entropies, masked = [], [], [], []
    for scores_N, query, past in zip(scores_QN.numpy(), queries, statistics, strict=True):
        if query.mask_past_items:
            scores_N[past.item_rows_M] = MASKED
        ranks.append(tied_ranks(scores_N, query.answers, past.item_rows_M))
        log_partition, entropy = likelihood(scores_N) if ranker.has_probabilities else (np.nan, np.nan)
        nll.append(log_partition - scores_N[query.answers].astype(np.float64))
        masked.append(np.isin(query.answers, past.item_rows_M) & query.mask_past_items)
        entropies.append(entropy)
    overall, unseen = (np.concatenate(r) for r in zip(*ranks, strict=True))
    # The only copy of scores, and a small one: a few hundred columns.
    local_rank_A, local_nll_A = batch_local(scores_QN.numpy(), [q.answers for q in queries], ranker.has_probabilities)
    # A masked answer has no likelihood.
    nll_A, local_nll_A = (np.where(np.concatenate(masked), np.nan, each) for each in (np.concatenate(nll), local_nll_A))
    return _Ranked(overall, unseen, local_rank_A, nll_A, local_nll_A, np.array(entropies), top_rows(scores_QN))


def top_rows(scores_QN: Tensor, k: int = 10) -> Ints:
    """The k best rows of each query."""
    return torch.topk(scores_QN, min(k, scores_QN.shape[1])).indices.numpy()


def statistics_before(log: EventLog, query: Query) -> ItemStatistics:
    """Statistics of the past items at the moment of the query."""
    start = log.span(query.user)[0]
    stop = start + query.num_known
    return item_statistics(log.item_rows_E[start:stop].astype(np.int64), log.times_ms_E[start:stop])
