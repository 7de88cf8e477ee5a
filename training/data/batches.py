"""Batches of windows: parts of users' histories, in which every basket boundary is a query.

A query stands after the last event of one basket, and its answers are the items of the next. The items of a basket are shuffled
every time they are drawn, because their order in the log has no meaning and the model must not learn it.

Where no log of searches exists, some queries are preceded by a made-up search for one of their answers, which is then the only
answer. The search stays in the history of the queries after it.

B: windows, Q: queries, M: past items of all queries, A: answers (items of the next baskets), S: searches of all windows
"""

from collections import deque
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from training.data.draws import Draw, step_rng
from training.data.event_log import EventLog, basket_starts
from training.data.made_up_queries import ItemWords, ago_ms
from training.recipes.config import TrainConfig
from twotower.data.features import DAY_MS, Ints, encode_wanted, request_time_features
from twotower.data.item_statistics import grouped_statistics
from twotower.data.past_items import PastItems, past_items
from twotower.data.window import History, HistoryBatch, Searches, anchor, collate
from twotower.model.config import ModelConfig
from twotower.model.searches import EncodedQueries, encode_queries, search_context, search_weight

WANTED_SHARE = 0.5  # of the queries, which name the event type of their answers
# A user with a large share of all events is a robot, or all visitors without an id. These bound what such a user costs; nobody
# with fewer than 2,000 events is concerned.
MAX_WINDOWS = 16  # of one user: with more, the user is drawn as often as with 16
MAX_KNOWN_EVENTS = 2**19  # that the queries of one window have seen in total; of a longer history fewer queries are drawn


Axis: TypeAlias = Literal["B", "Q", "M", "A", "S"]


def one_per(axis: Axis, **exceptions: Axis) -> Mapping[str, Any]:
    """Metadata of a field with one row per window, query, past item, answer or search; by it, processes share a batch.

    Of a field that is a record, every field has its rows along `axis`, except for the named exceptions.
    """
    return {"axis": axis, "exceptions": exceptions}


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """Everything that one step reads, as tensors."""

    users_B: Ints = field(metadata=one_per("B"))
    histories: HistoryBatch = field(metadata=one_per("B"))
    window_Q: Tensor = field(metadata=one_per("Q"))
    position_Q: Tensor = field(metadata=one_per("Q"))  # the last event that the query has seen; -1 for an empty history
    request_Q7: Tensor = field(metadata=one_per("Q"))
    wanted_QS: Tensor = field(metadata=one_per("Q"))
    wanted_weights_QS: Tensor = field(metadata=one_per("Q"))
    search_weight_Q: Tensor = field(metadata=one_per("Q"))  # how much the query of the last event counts directly
    now_ms_Q: Ints = field(metadata=one_per("Q"))
    past: PastItems = field(metadata=one_per("M", activity_Q6="Q"))
    answer_rows_A: Tensor = field(metadata=one_per("A"))
    answer_query_A: Tensor = field(metadata=one_per("A"))
    answer_weights_A: Tensor = field(metadata=one_per("A"))
    searches: EncodedQueries = field(metadata=one_per("S"))  # -1 - s is the row of search s in `histories`


class _Queries(NamedTuple):
    """Boundaries between two baskets, one row each. Events are given as rows of the log."""

    window_Q: Ints
    position_Q: Ints
    start_Q: Ints  # first event of the user
    now_Q: Ints  # first event of the next basket
    stop_Q: Ints  # end of the next basket
    found_Q: Ints  # the event of the next basket that was searched for; -1 without a made-up search

    @staticmethod
    def of_window(window: int, position_Q: Ints, start: int, rows_Q1: Ints) -> "_Queries":
        """The queries of one window at these boundaries; the last row is the end of the last basket."""
        same = np.ones(len(position_Q), np.int64)
        return _Queries(same * window, position_Q, same * start, rows_Q1[:-1], rows_Q1[1:], -same)

    def take(self, index: Ints) -> "_Queries":
        """The queries at these indices."""
        return _Queries(*(column[index] for column in self))


class BatchSampler:
    """Draws windows such that every basket boundary of every user becomes a query about equally often.

    A window holds W of a user's K baskets. Its end is drawn uniformly from 0 .. K + W and then clipped to W .. K. So windows
    are full, and the oldest and newest boundaries are as likely as those between, or up to twice as likely. Users are drawn
    in proportion to K / W, but to no more than MAX_WINDOWS.
    """

    def __init__(
        self, log: EventLog, train_until_ms: int, model: ModelConfig, config: TrainConfig, words: ItemWords | None = None
    ) -> None:
        """`words` are needed to teach the model what queries mean; with them searches are made up, unless the log has some."""
        if model.query_field is None and log.searches is not None:
            log = replace(log, searches=None)
        self.log, self.model, self.config = log, model, config
        self.words = None if model.query_field is None else words
        self.makes_up = self.words is not None and log.searches is None and config.search_share > 0
        starts, offsets = [], [0]
        for user in range(log.num_users):
            start, stop = log.span(user)
            times = log.times_ms_E[start:stop]
            times = times[: np.searchsorted(times, train_until_ms)]
            starts.append(np.append(start + basket_starts(times), start + len(times)))
            offsets.append(offsets[-1] + len(starts[-1]))
        self.bound_K = np.concatenate(
            starts
        )  # for every user, the starts of the baskets and, last, the end of the training events
        self.offset_U1 = np.array(offsets)
        baskets_U = np.diff(self.offset_U1) - 1
        if not baskets_U.any():
            raise ValueError("no training events: the split's validation_from lies before every event")
        width_U = np.array([self.baskets_of_window(self.bounds(user)) for user in range(log.num_users)])
        num_windows_U = np.divide(baskets_U, width_U, out=np.zeros(log.num_users), where=baskets_U > 0)
        num_windows_U = np.minimum(num_windows_U, MAX_WINDOWS)
        self.share_U = num_windows_U / num_windows_U.sum()

    def bounds(self, user: int) -> Ints:
        """Rows of the log at which the user's training baskets start and, last, at which the last one ends."""
        return self.bound_K[self.offset_U1[user] : self.offset_U1[user + 1]]

    def baskets_of_window(self, bounds: Ints) -> int:
        """How many of the newest baskets fit a window of mean length: at least one, even if it is larger."""
        mean_length = self.model.window - self.model.page // 2
        num_baskets = len(bounds) - 1
        return max(num_baskets - int(np.searchsorted(bounds, max(bounds[-1] - mean_length, bounds[0]))), min(num_baskets, 1))

    def sample(self, rng: np.random.Generator) -> TrainBatch:
        """Draw one batch."""
        users = rng.choice(self.log.num_users, self.config.batch_windows, p=self.share_U)
        histories: list[History] = []
        parts: list[_Queries] = []
        for window, user in enumerate(users):
            bounds = self.bounds(user)
            num_baskets, width = len(bounds) - 1, self.baskets_of_window(bounds)
            end = min(max(int(rng.integers(num_baskets + width + 1)), width), num_baskets)
            stop = int(bounds[end])
            left_out = anchor(int(self.log.num_known(user, bounds[end])), self.model.window, self.model.page)
            first = self.log.first_row(user, left_out)
            shuffle = np.lexsort((rng.random(stop - first), self.log.times_ms_E[first:stop]))
            histories.append(self.log.window(user, left_out, stop, shuffle))
            rows_Q1 = self._boundaries(bounds, first, end)
            position_Q = self.log.num_known(user, rows_Q1[:-1]) - left_out - 1
            parts.append(_affordable(rng, _Queries.of_window(window, position_Q, int(bounds[0]), rows_Q1)))
        queries = _Queries(*map(np.concatenate, zip(*parts, strict=True)))
        if len(queries.now_Q) > self.config.max_queries:
            queries = queries.take(np.sort(rng.choice(len(queries.now_Q), self.config.max_queries, replace=False)))
        if not len(queries.now_Q):
            return self.sample(rng)
        if self.words is not None and self.makes_up:
            queries = self._make_up_searches(rng, self.words, histories, queries)
        return self._batch(rng, users, histories, queries)

    def _make_up_searches(
        self, rng: np.random.Generator, words: ItemWords, histories: list[History], queries: _Queries
    ) -> _Queries:
        """Let some queries follow a search for one of their answers. Inserts the searches into `histories`."""
        times_ms_E, search = self.log.times_ms_E, search_context(self.model)
        position_Q, found_Q, search_ms_Q = (x_Q.copy() for x_Q in (queries.position_Q, queries.found_Q, queries.now_Q))
        found_E = rng.integers(queries.now_Q, queries.stop_Q)
        searched = rng.random(len(found_E)) < self.config.search_share
        for window, history in enumerate(histories):
            mine, texts, chosen = np.flatnonzero(queries.window_Q == window), list[str](), list[int]()
            for q in mine[searched[mine]].tolist():
                text = words.query(rng, int(self.log.item_rows_E[found_E[q]]))
                if text is not None and len(history) + len(texts) < self.model.window:
                    now_ms, position = int(times_ms_E[queries.now_Q[q]]), int(queries.position_Q[q])
                    gap_ms = now_ms - int(history.times_ms_L[position]) if position >= 0 else DAY_MS
                    search_ms_Q[q], found_Q[q] = now_ms - ago_ms(rng, gap_ms), found_E[q]
                    texts.append(text)
                    chosen.append(q)
            if texts:
                context = search.take(np.zeros(len(texts), np.int64))
                places_R = queries.position_Q[chosen] + 1
                histories[window] = history.with_searches(Searches(tuple(texts), search_ms_Q[chosen], context), places_R)
                position_Q[mine] += np.searchsorted(places_R, queries.position_Q[mine] + 1, side="right")
        return queries._replace(position_Q=position_Q, found_Q=found_Q)

    def _boundaries(self, bounds: Ints, first: int, end: int) -> Ints:
        """Where the queries of one window stand, and the end of the last one's basket.

        That is after every basket in the window and, if it starts with the user's first basket, before that one too. The last
        query reads as many events as when it is served; if the window starts late, earlier ones read fewer.
        """
        last = min(end, len(bounds) - 2)
        begin = int(np.searchsorted(bounds, first, "left" if first == bounds[0] else "right"))
        return bounds[begin : last + 2]

    def _batch(self, rng: np.random.Generator, users_B: Ints, histories: list[History], queries: _Queries) -> TrainBatch:
        log = self.log
        now_ms_Q = log.times_ms_E[queries.now_Q]
        last_ms_Q, is_search_Q = now_ms_Q.copy(), np.zeros(len(now_ms_Q), bool)
        for q in np.flatnonzero(queries.position_Q >= 0).tolist():
            history, position = histories[queries.window_Q[q]], queries.position_Q[q]
            last_ms_Q[q], is_search_Q[q] = history.times_ms_L[position], history.item_rows_L[position] < 0
        owner_E, event_E = ranges(queries.start_Q, queries.now_Q)
        request_M, statistics = grouped_statistics(owner_E, log.item_rows_E[event_E], log.times_ms_E[event_E])
        past = past_items(request_M, statistics, now_ms_Q)
        names, answer_query_A, answer_rows_A = self._answers(rng, queries)
        wanted = encode_wanted(names, self.model.context_spec, self.model.context_table_rows)
        weight_A = np.bincount(answer_query_A, minlength=len(now_ms_Q))[answer_query_A] ** -0.5
        return TrainBatch(
            users_B=users_B,
            histories=collate(histories),
            window_Q=torch.from_numpy(queries.window_Q),
            position_Q=torch.from_numpy(queries.position_Q),
            request_Q7=torch.from_numpy(request_time_features(now_ms_Q, last_ms_Q)),
            wanted_QS=torch.from_numpy(wanted[0]),
            wanted_weights_QS=torch.from_numpy(wanted[1]),
            search_weight_Q=torch.from_numpy(search_weight(is_search_Q, now_ms_Q, last_ms_Q)),
            now_ms_Q=now_ms_Q,
            past=past,
            answer_rows_A=torch.from_numpy(answer_rows_A),
            answer_query_A=torch.from_numpy(answer_query_A),
            answer_weights_A=torch.from_numpy((weight_A / weight_A.sum()).astype(np.float32)),
            searches=encode_queries([text for history in histories for text in history.queries], self.model),
        )

    def _answers(self, rng: np.random.Generator, queries: _Queries) -> tuple[list[str | None], Ints, Ints]:
        """The items of each next basket. Half of the queries name an event type, and only items of that type are answers.

        After a made-up search, the item that was searched for is the only answer.
        """
        named_Q = rng.random(len(queries.now_Q)) < WANTED_SHARE
        drawn_Q = rng.integers(queries.now_Q, queries.stop_Q)
        wanted_Q = self.log.types_E[np.where(queries.found_Q >= 0, queries.found_Q, drawn_Q)]
        query_A, event_A = ranges(queries.now_Q, queries.stop_Q)
        counted = ~named_Q[query_A] | (self.log.types_E[event_A] == wanted_Q[query_A])
        counted &= (queries.found_Q[query_A] < 0) | (queries.found_Q[query_A] == event_A)
        keys = np.unique(query_A[counted] << 32 | self.log.item_rows_E[event_A[counted]])
        names = [self.log.event_types[w] if n else None for n, w in zip(named_Q.tolist(), wanted_Q.tolist(), strict=True)]
        return names, keys >> 32, keys & 0xFFFFFFFF


def _affordable(rng: np.random.Generator, queries: _Queries) -> _Queries:
    """So many random queries of a window that they have seen no more than MAX_KNOWN_EVENTS in total; usually all."""
    num_known = int((queries.now_Q - queries.start_Q).sum())
    if num_known <= MAX_KNOWN_EVENTS:
        return queries
    size = max(1, len(queries.now_Q) * MAX_KNOWN_EVENTS // num_known)
    return queries.take(np.sort(rng.choice(len(queries.now_Q), size, replace=False)))


def ranges(start_Q: Ints, stop_Q: Ints) -> tuple[Ints, Ints]:
    """The integers of several ranges, one range after the other: the index of the range of each, and the integer."""
    sizes = stop_Q - start_Q
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return owner, np.arange(sizes.sum()) + np.repeat(start_Q - np.cumsum(sizes) + sizes, sizes)


def stream_batches(sampler: BatchSampler, seed: int, first_step: int = 0, prefetch: int = 0) -> Generator[TrainBatch]:
    """The batches of steps first_step, first_step + 1, ... without end. A thread draws up to `prefetch` of them ahead.

    A batch depends only on the seed and its step, not on where the stream starts or which thread draws it. Closing the stream
    ends the thread.
    """

    def draw(step: int) -> TrainBatch:
        return sampler.sample(step_rng(seed, Draw.BATCH, step))

    if not prefetch:
        yield from map(draw, count(first_step))
    thread = ThreadPoolExecutor(1, "batches")
    try:
        ahead = deque(thread.submit(draw, first_step + i) for i in range(prefetch))
        for step in count(first_step + prefetch):
            ahead.append(thread.submit(draw, step))
            yield ahead.popleft().result()
    finally:
        thread.shutdown(cancel_futures=True)
