"""Exports our event log as training sequences for a peer, and our queries as histories that it can encode.

E: events
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.training_rivals.job import QUERIES, SESSIONS, VALIDATION
from training.data.event_log import EventLog
from training.data.read import Data
from training.evaluation.metrics import Flags
from training.evaluation.rankers import Query
from twotower.data.features import Ints


def export(data: Data, queries: Sequence[Query], validation: Sequence[Query], length: int, seed: int, directory: Path) -> None:
    """Write the input of a peer: training sessions of at most `length` + 1 events, and the queries of both parts."""
    order_E = shuffle_baskets(data.log, seed)
    spans = list(sessions(data.log, data.train_until_ms, length))
    known_N = np.zeros(len(data.item_ids), bool)
    for span in spans:
        known_N[data.log.item_rows_E[order_E[span]]] = True
    pq.write_table(sessions_table(data.log, order_E, spans), directory / SESSIONS)
    pq.write_table(_queries_table(data.log, order_E, queries, known_N, length), directory / QUERIES)
    answerable = [q for q in validation if known_N[q.answers].any()]
    pq.write_table(_queries_table(data.log, order_E, answerable, known_N, length), directory / VALIDATION)


def shuffle_baskets(log: EventLog, seed: int) -> Ints:
    """Rows of the log [E] with the events of each basket in random order.

    Their order has no meaning, but a model that predicts the next row could learn the rule by which they were sorted.
    """
    owner_E = np.repeat(np.arange(log.num_users), np.diff(log.offsets_U1))
    return np.lexsort((np.random.default_rng(seed).random(len(owner_E)), log.times_ms_E, owner_E))


def sessions(log: EventLog, until_ms: int, length: int) -> Iterator[slice]:
    """Rows of every session: the training events of a user, cut from the newest back into pieces of `length` + 1.

    rectools uses only the last session of that size of each user; with these pieces it trains on every event. Neighbouring pieces
    share one event, so that each event but the first of a user is predicted exactly once.
    """
    for user in range(log.num_users):
        start, end = log.span(user)
        stop = start + int(np.searchsorted(log.times_ms_E[start:end], until_ms))
        while stop - start > 1:
            first = max(start, stop - length - 1)
            yield slice(first, stop)
            stop = first + 1


def sessions_table(log: EventLog, order_E: Ints, spans: Sequence[slice]) -> pa.Table:
    """A table with the columns session, item and time_ms."""
    rows_E = np.concatenate([order_E[span] for span in spans])
    number_E = np.repeat(np.arange(len(spans)), [span.stop - span.start for span in spans])
    return pa.table({"session": number_E, "item": log.item_rows_E[rows_E], "time_ms": log.times_ms_E[rows_E]})


def _queries_table(log: EventLog, order_E: Ints, queries: Sequence[Query], known_N: Flags, length: int) -> pa.Table:
    """Histories and answers contain known items only, because rectools leaves out others too."""
    items: list[Ints] = []
    times: list[Ints] = []
    answers: list[Ints] = []
    for query in queries:
        start = log.span(query.user)[0]
        rows_L = order_E[start : start + query.num_known]
        rows_L = rows_L[known_N[log.item_rows_E[rows_L]]][-length:]
        items.append(log.item_rows_E[rows_L].astype(np.int64))
        times.append(log.times_ms_E[rows_L])
        answers.append(query.answers[known_N[query.answers]])
    lists: dict[str, pa.Array] = {"items": _lists(items), "times_ms": _lists(times), "answers": _lists(answers)}
    return pa.table(lists | {"now_ms": np.array([q.now_ms for q in queries], np.int64)})


def _lists(values: Sequence[Ints]) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum([len(v) for v in values])]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, np.concatenate([np.zeros(0, np.int64), *values]).astype(np.int64))
