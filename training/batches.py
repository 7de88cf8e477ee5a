"""Windows of histories with every basket boundary in them as a query.

A query stands after the last event of one basket; its answer is the set of items of the next. Items that share a time
are shuffled freshly whenever they are drawn: their order in the log means nothing and must teach nothing.

B: windows, Q: queries, M: own items of all queries, A: answers (items of the next baskets)
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.config import TrainConfig
from training.eventlog import EventLog, basket_starts
from twotower.features import Ints, encode_wanted, request_time_features
from twotower.model.config import ModelConfig
from twotower.repeat import ItemStatistics, item_statistics
from twotower.scoring import OwnItems, own_items
from twotower.window import History, HistoryBatch, anchor, collate

WANTED_SHARE = 0.5  # of queries that name the event type they ask for


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """Everything one step reads, as tensors."""

    histories: HistoryBatch
    window_Q: Tensor
    position_Q: Tensor  # last event the query has seen; -1 for an empty history
    request_Q7: Tensor
    wanted_QS: Tensor
    wanted_weights_QS: Tensor
    now_ms_Q: Ints
    own: OwnItems
    answer_rows_A: Tensor
    answer_query_A: Tensor
    answer_weights_A: Tensor


@dataclass(frozen=True, slots=True)
class _Query:
    """One boundary: `seen` events of the user, the moment and the items of the next basket."""

    window: int
    position: int
    now_ms: int
    last_ms: int
    wanted: str | None
    statistics: ItemStatistics
    answers: Ints


class BatchSampler:
    """Draws batches: users in proportion to their training baskets, window ends uniformly among them."""

    def __init__(self, log: EventLog, train_until_ms: int, model: ModelConfig, config: TrainConfig) -> None:
        self.log, self.model, self.config = log, model, config
        self.stops_U = np.array([self._train_stop(u, train_until_ms) for u in range(log.num_users)])
        baskets = np.array([self._num_baskets(u) for u in range(log.num_users)], np.float64)
        if not baskets.sum():
            raise ValueError("no training events: the split's validation_from lies before every event")
        self.share_U = baskets / baskets.sum()

    def _train_stop(self, user: int, until_ms: int) -> int:
        start, stop = self.log.span(user)
        return start + int(np.searchsorted(self.log.times_ms_E[start:stop], until_ms))

    def _num_baskets(self, user: int) -> int:
        return len(basket_starts(self.log.times_ms_E[self.log.span(user)[0] : self.stops_U[user]]))

    def sample(self, rng: np.random.Generator) -> TrainBatch:
        """One batch."""
        users = rng.choice(self.log.num_users, self.config.batch_windows, p=self.share_U)
        histories: list[History] = []
        queries: list[_Query] = []
        for b, user in enumerate(users):
            start, stop = self.log.span(user)[0], int(self.stops_U[user])
            times = self.log.times_ms_E[start:stop]
            bounds = np.append(basket_starts(times), len(times))
            end = int(rng.integers(len(bounds)))
            first = anchor(int(bounds[end]), self.model.window, self.model.page)
            shuffle = np.lexsort((rng.random(bounds[end] - first), times[first : bounds[end]]))
            histories.append(self.log.history(start + first, start + int(bounds[end]), shuffle))
            queries.extend(self._queries(rng, b, start, bounds, first, end))
        if len(queries) > self.config.max_queries:
            chosen = np.sort(rng.choice(len(queries), self.config.max_queries, replace=False))
            queries = [queries[i] for i in chosen]
        if not queries:
            return self.sample(rng)
        wanted = encode_wanted([q.wanted for q in queries], self.model.context_spec, self.model.context_table_rows)
        now = np.array([q.now_ms for q in queries])
        sizes = np.array([len(q.answers) for q in queries])
        weights = np.repeat(sizes**-0.5, sizes)
        return TrainBatch(
            histories=collate(histories),
            window_Q=torch.tensor([q.window for q in queries]),
            position_Q=torch.tensor([q.position for q in queries]),
            request_Q7=torch.from_numpy(request_time_features(now, np.array([q.last_ms for q in queries]))),
            wanted_QS=torch.from_numpy(wanted[0]),
            wanted_weights_QS=torch.from_numpy(wanted[1]),
            now_ms_Q=now,
            own=own_items([q.statistics for q in queries], now),
            answer_rows_A=torch.from_numpy(np.concatenate([q.answers for q in queries])),
            answer_query_A=torch.from_numpy(np.repeat(np.arange(len(queries)), sizes)),
            answer_weights_A=torch.from_numpy((weights / weights.sum()).astype(np.float32)),
        )

    def _queries(self, rng: np.random.Generator, window: int, start: int, bounds: Ints, first: int, end: int) -> Iterator[_Query]:
        """Queries of one window: after every basket that lies in it, and before the first when the window starts there.

        The last one reads a context exactly as it is served; those inside a window that starts late read a shorter one.
        """
        rows = self.log.item_rows_E[start : start + bounds[-1]].astype(np.int64)
        times = self.log.times_ms_E[start : start + bounds[-1]]
        for basket in range(end + 1):
            seen = int(bounds[basket])
            if seen < first or (seen == first and first > 0) or basket + 1 == len(bounds):
                continue
            stop = int(bounds[basket + 1])
            wanted, answers = self._answers(rng, start + seen, start + stop)
            yield _Query(
                window=window,
                position=seen - first - 1,
                now_ms=int(times[seen]),
                last_ms=int(times[seen - 1]) if seen else int(times[seen]),
                wanted=wanted,
                statistics=item_statistics(rows[:seen], times[:seen]),
                answers=answers,
            )

    def _answers(self, rng: np.random.Generator, start: int, stop: int) -> tuple[str | None, Ints]:
        """The items of a basket; half the time only those of one event type, which the query then names."""
        rows, types = self.log.item_rows_E[start:stop], self.log.types_E[start:stop]
        if rng.random() >= WANTED_SHARE:
            return None, np.unique(rows).astype(np.int64)
        wanted = int(rng.choice(types))
        return self.log.event_types[wanted], np.unique(rows[types == wanted]).astype(np.int64)


def stream_batches(sampler: BatchSampler, seed: int) -> Iterator[TrainBatch]:
    """An endless, seeded stream of batches.

    Drawn in line: on two cores a second thread only takes turns with the arithmetic (measured .45 s a step against .31).
    """
    rng = np.random.default_rng(seed)
    while True:
        yield sampler.sample(rng)
