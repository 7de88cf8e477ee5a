from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.training_rivals.export import export, sessions, sessions_table, shuffle_baskets
from benchmarks.training_rivals.job import QUERIES, SESSIONS, VALIDATION
from training.data.read import Data
from training.evaluation.rankers import next_basket

LENGTH = 20


def test_sessions_predict_every_training_event_but_a_users_first_exactly_once(data: Data) -> None:
    log = data.log
    predicted = np.zeros(len(log.item_rows_E), int)
    for span in sessions(log, data.train_until_ms, LENGTH):
        assert span.stop - span.start <= LENGTH + 1
        predicted[span.start + 1 : span.stop] += 1

    training = log.times_ms_E < data.train_until_ms
    assert (predicted[~training] == 0).all()
    firsts = log.offsets_U1[:-1][training[log.offsets_U1[:-1]]]
    assert (predicted[firsts] == 0).all()
    training[firsts] = False
    assert (predicted[training] == 1).all()


def test_baskets_are_shuffled_and_nothing_else(data: Data) -> None:
    log = data.log
    order_E = shuffle_baskets(log, seed=0)

    assert (log.times_ms_E[order_E] == log.times_ms_E).all()
    owner_E = np.repeat(np.arange(log.num_users), np.diff(log.offsets_U1))
    assert (owner_E[order_E] == owner_E).all()
    assert sorted(order_E) == list(range(len(order_E)))
    # Two neighbours of one basket stand in their old order half of the time: the old order cannot be learned.
    together = (np.diff(log.times_ms_E) == 0) & (np.diff(owner_E) == 0)
    kept = (np.diff(order_E) > 0)[together]
    assert 0.45 < kept.mean() < 0.55
    assert (shuffle_baskets(log, seed=0) == order_E).all()


def test_sessions_are_rows_of_session_item_and_time(data: Data) -> None:
    order_E = np.arange(len(data.log.item_rows_E))[::-1]

    table = sessions_table(data.log, order_E, [slice(0, 2), slice(5, 8)])

    assert table["session"].to_pylist() == [0, 0, 1, 1, 1]
    assert table["item"].to_pylist() == data.log.item_rows_E[order_E[[0, 1, 5, 6, 7]]].tolist()
    assert table["time_ms"].to_pylist() == data.log.times_ms_E[order_E[[0, 1, 5, 6, 7]]].tolist()


def test_queries_hold_the_newest_known_events_before_them_and_no_other(data: Data, tmp_path: Path) -> None:
    queries = next_basket(data.log, data.test_from_ms, data.end_ms)
    validation = next_basket(data.log, data.train_until_ms, data.test_from_ms)

    export(data, queries, validation, LENGTH, 0, tmp_path)

    known = set(pq.read_table(tmp_path / SESSIONS)["item"].to_pylist())
    written = pq.read_table(tmp_path / QUERIES).to_pylist()
    assert len(written) == len(queries)
    for query, row in zip(queries, written, strict=True):
        start = data.log.span(query.user)[0]
        events = zip(data.log.item_rows_E[start:][: query.num_known].tolist(), data.log.times_ms_E[start:].tolist(), strict=False)
        expected = [event for event in events if event[0] in known][-LENGTH:]
        assert row["now_ms"] == query.now_ms
        assert sorted(row["times_ms"]) == row["times_ms"] == [time for _, time in expected]
        assert all(time < query.now_ms for time in row["times_ms"])
        # The oldest basket may be cut in two: the rest is the same, in another order within each basket.
        whole = [event for event in expected if event[1] > expected[0][1]]
        assert sorted(zip(row["times_ms"], row["items"], strict=True))[-len(whole) :] == sorted((t, i) for i, t in whole)
        assert set(row["answers"]) <= set(query.answers.tolist())
    answered = pq.read_table(tmp_path / VALIDATION)["answers"].to_pylist()
    assert len(answered) <= len(validation)
    assert all(answers and set(answers) <= known for answers in answered)
