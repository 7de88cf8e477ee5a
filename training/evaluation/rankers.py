"""Evaluation protocols and rankers: the model and the counting baselines are ranked by the same code.

Q: queries, N: items, V: vector width, D: model width, P: popularity dimensions
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from training.data.event_log import EventLog, basket_starts
from training.data.popularity_snapshots import PopularitySnapshots
from training.evaluation.metrics import Flags, Rankings
from training.evaluation.ranked_batch import RankedBatch, rank_on_cpu, rank_on_device
from training.recipes.config import ProtocolName
from twotower.data.features import Ints
from twotower.data.item_statistics import ItemStatistics, item_statistics
from twotower.data.past_items import PastVectors, join_statistics, past_items
from twotower.data.window import anchor, collate
from twotower.device import CPU, on
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer
from twotower.model.embedder import Embedder
from twotower.model.scoring import Request, queries_from_hidden
from twotower.model.searches import embed_queries, event_vectors

WINDOWS_PER_BATCH = 16
QUERIES_PER_BATCH = 64
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
    embedder: Embedder | None = None  # reads the searches of the log; without it they are left out
    has_probabilities: bool = True

    @torch.inference_mode()
    def score(self, queries: Sequence[Query], statistics: Sequence[ItemStatistics], out_QN: Tensor) -> None:
        """Queries of one user and one anchor share a forward pass, because attention is causal."""
        config, device = self.config, self.vectors_ND.device
        windows = [list(g) for _, g in groupby(range(len(queries)), lambda i: self._window(queries[i]))]
        hidden: list[tuple[Tensor, Tensor]] = []
        for begin in range(0, len(windows), WINDOWS_PER_BATCH):
            hidden.append(self._hidden(queries, windows[begin : begin + WINDOWS_PER_BATCH]))
        requests = [self._request(q, s) for q, s in zip(queries, statistics, strict=True)]
        now = np.array([q.now_ms for q in queries])
        past = past_items(*join_statistics(statistics), now)
        past_popularity_PM = self.snapshots.of_items(now[past.request_M.numpy()], past.rows_M.numpy())
        past = on(device, past)
        vectors = PastVectors.of(self.vectors_ND, past.rows_M, torch.from_numpy(past_popularity_PM).T.to(device))
        hidden_QD, read_QD = (torch.cat(parts) for parts in zip(*hidden, strict=True))
        answered = queries_from_hidden(self.contextualizer, config, hidden_QD, read_QD, requests, past, vectors)
        torch.matmul(answered.vectors_QV[:, : config.width], self.vectors_ND.T, out=out_QN)
        # The nightly refresh changes only the popularity dimensions, so each query is scored with those of its day.
        if device.type == "cpu":
            self._add_popularity(out_QN, queries, answered.vectors_QV[:, config.width :])
        else:
            self._add_popularity_of_days(out_QN, queries, answered.vectors_QV[:, config.width :])
        answered.add_repeat_scores(out_QN, torch.arange(out_QN.shape[1], device=device))

    def _add_popularity(self, out_QN: Tensor, queries: Sequence[Query], weights_QP: Tensor) -> None:
        """Query by query, so that a row of scores stays in the cache."""
        for row_N, query, weights_P in zip(out_QN, queries, weights_QP.tolist(), strict=True):
            for p, weight in enumerate(weights_P):
                row_N.add_(torch.from_numpy(self.snapshots.day(query.now_ms)[p]), alpha=weight)

    def _add_popularity_of_days(self, out_QN: Tensor, queries: Sequence[Query], weights_QP: Tensor) -> None:
        """Day by day, so that each day's popularity is copied to the device once, and nothing is copied back."""
        days, day_of_query = np.unique(self.snapshots.index(np.array([q.now_ms for q in queries])), return_inverse=True)
        for number, day in enumerate(days.tolist()):
            popularity_PN = torch.from_numpy(self.snapshots.table_PTN[:, day]).to(out_QN.device)
            for row in np.flatnonzero(day_of_query == number).tolist():
                out_QN[row].addmv_(popularity_PN.T, weights_QP[row])

    @cached_property
    def _read(self) -> EventLog:
        """The log as the model reads it: without searches if it was not trained on them."""
        return self.log if self.embedder is not None and self.config.query_field else replace(self.log, searches=None)

    def _stop(self, query: Query) -> int:
        return self.log.span(query.user)[0] + query.num_known

    def _num_known(self, query: Query) -> int:
        return int(self._read.num_known(query.user, np.array(self._stop(query))))

    def _window(self, query: Query) -> tuple[int, int]:
        return query.user, anchor(self._num_known(query), self.config.window, self.config.page)

    def _hidden(self, queries: Sequence[Query], windows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """The hidden states after the last events of queries, and the vectors of these events."""
        histories, device = [], self.vectors_ND.device
        for members in windows:
            user, first = self._window(queries[members[0]])
            histories.append(self._read.window(user, first, max(self._stop(queries[i]) for i in members)))
        batch = on(device, collate(histories))
        texts = [text for history in histories for text in history.queries]
        searches_SD = self.vectors_ND[:0]
        if self.embedder is not None and texts:
            searches_SD = embed_queries(self.embedder, self.contextualizer, texts, self.config)
        read_BLD = event_vectors(self.vectors_ND, searches_SD, batch.item_rows_BL)
        hidden_BLD = self.contextualizer(read_BLD, batch)
        window = [b for b, members in enumerate(windows) for _ in members]
        position = [max(self._num_known(queries[i]) - self._window(queries[i])[1] - 1, 0) for members in windows for i in members]
        return hidden_BLD[window, position], read_BLD[window, position]

    def _request(self, query: Query, statistics: ItemStatistics) -> Request:
        last = self._read.window(query.user, max(self._num_known(query) - 1, 0), self._stop(query))
        return Request(last, statistics, query.now_ms)


@torch.inference_mode()
def rank(
    rankers: Mapping[str, Ranker],
    log: EventLog,
    queries: Sequence[Query],
    train_count_N: Ints,
    on_queries: Callable[[int], None] = lambda _: None,
) -> dict[str, Rankings]:
    """Rank the whole catalogue for every query by each ranker. The statistics of past items are computed once for all."""
    parts: dict[str, list[RankedBatch]] = {name: [] for name in rankers}
    past: list[Flags] = []
    matrices: dict[torch.device, Tensor] = {}
    for ranker in rankers.values():
        if (device := ranker.vectors_ND.device if isinstance(ranker, Model) else CPU) not in matrices:
            matrices[device] = torch.empty(QUERIES_PER_BATCH, len(train_count_N), device=device)
    for begin in range(0, len(queries), QUERIES_PER_BATCH):
        batch = queries[begin : begin + QUERIES_PER_BATCH]
        statistics = [statistics_before(log, q) for q in batch]
        past.extend(np.isin(q.answers, s.item_rows_M) for q, s in zip(batch, statistics, strict=True))
        for name, ranker in rankers.items():
            scores_QN = matrices[ranker.vectors_ND.device if isinstance(ranker, Model) else CPU]
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


def _rank_batch(ranker: Ranker, queries: Sequence[Query], statistics: Sequence[ItemStatistics], scores_QN: Tensor) -> RankedBatch:
    ranker.score(queries, statistics, scores_QN)
    rank_scores = rank_on_cpu if scores_QN.device.type == "cpu" else rank_on_device
    return rank_scores(
        scores_QN,
        [query.answers for query in queries],
        [past.item_rows_M for past in statistics],
        [query.mask_past_items for query in queries],
        ranker.has_probabilities,
    )


def statistics_before(log: EventLog, query: Query) -> ItemStatistics:
    """Statistics of the past items at the moment of the query."""
    start = log.span(query.user)[0]
    stop = start + query.num_known
    return item_statistics(log.item_rows_E[start:stop].astype(np.int64), log.times_ms_E[start:stop])
