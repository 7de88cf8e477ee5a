"""Real requests are those that training judges and the service answers."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.serving_rivals.offline import event_context
from embedder_cache.catalogue.popularity import popularity_from_events
from embedder_cache.checks.probe import Probe, ProbeAnswers, ask, ask_popularity, overlap, read_probe
from service.histories.history import StoredEvent
from service.release.loading import open_release
from training.data.event_log import EventLog, read_event_log
from training.evaluation.rankers import next_basket, statistics_before
from twotower.artefacts.bundle import Bundle, load_bundle
from twotower.artefacts.release import VECTORS, read_pointer, release_path
from twotower.data.features import DAY_MS
from twotower.data.popularity import decayed_counts, log_popularity
from twotower.data.window import anchor
from twotower.model.catalogue import read_item_ids
from twotower.model.scoring import answer


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def item_ids(tiny_shop: Path, bundle: Bundle) -> pa.Array:
    return read_item_ids(tiny_shop / "items.parquet", bundle.towers.schema.items)


@pytest.fixture(scope="module")
def log(tiny_shop: Path, bundle: Bundle, item_ids: pa.Array) -> EventLog:
    model = bundle.towers.config.model
    events = tiny_shop / "events.parquet"
    return read_event_log(events, bundle.towers.schema, item_ids, model.context_table_rows, model.context_spec)


@pytest.fixture(scope="module")
def probe(tiny_shop: Path, bundle: Bundle, item_ids: pa.Array, log: EventLog) -> Probe:
    return read_probe(tiny_shop / "events.parquet", item_ids, int(log.times_ms_E.max()), bundle.towers)


def test_requests_are_those_that_training_asks(probe: Probe, bundle: Bundle, item_ids: pa.Array, log: EventLog) -> None:
    """The last basket of every user of the last week: its moment, its answers, and all that the model reads before it."""
    end_ms = int(log.times_ms_E.max())
    last = {q.user: q for q in next_basket(log, end_ms - 7 * DAY_MS, end_ms + 1)}
    expected = {(q.now_ms, tuple(q.answers)): q for q in last.values()}
    requests = probe.requests(bundle.towers, item_ids)
    assert len(requests) == len(expected) > 40
    for i, request in enumerate(requests):
        rows = np.flatnonzero([item_ids_A == i for item_ids_A in probe.answer_query_A])
        answers = sorted(item_ids.index(probe.answer_ids_A[r]).as_py() for r in rows)
        query = expected.pop((request.now_ms, tuple(answers)))
        start = log.span(query.user)[0]
        known = log.history(start + anchor(query.num_known), start + query.num_known)
        np.testing.assert_array_equal(request.history.item_rows_L, known.item_rows_L)
        np.testing.assert_array_equal(request.history.times_ms_L, known.times_ms_L)
        np.testing.assert_array_equal(request.history.context.slots_NS, known.context.slots_NS)
        np.testing.assert_array_equal(request.history.context.weights_NS, known.context.weights_NS)
        np.testing.assert_array_equal(request.history.context.dense_NF, known.context.dense_NF)
        statistics = statistics_before(log, query)
        np.testing.assert_array_equal(request.statistics.item_rows_M, statistics.item_rows_M)
        np.testing.assert_array_equal(request.statistics.decayed_M3, statistics.decayed_M3)


def test_the_service_encodes_the_same_history(probe: Probe, bundle: Bundle, item_ids: pa.Array, tiny_store: Path) -> None:
    release = open_release(release_path(tiny_store, read_pointer(tiny_store).release))
    request = min(probe.requests(bundle.towers, item_ids), key=lambda r: len(r.history))
    q = [int(t) for t in probe.times_ms_E[probe.answer_Q]].index(request.now_ms)
    before = slice(int(probe.answer_Q[q]) - len(request.history), int(probe.answer_Q[q]))
    stored = [
        StoredEvent(
            user_id="u",
            event_type=context.pop("event_type"),
            time_ms=int(time_ms),
            item_id=item_id,
            properties=context,
        )
        for item_id, time_ms, context in zip(
            probe.item_ids_E[before].to_pylist(), probe.times_ms_E[before], probe.context_E[before].to_pylist(), strict=True
        )
    ]
    context = event_context(release.towers, stored)
    np.testing.assert_array_equal([release.rows[e.item_id or ""] for e in stored], request.history.item_rows_L)
    np.testing.assert_array_equal(context.slots_NS, request.history.context.slots_NS)
    np.testing.assert_array_equal(context.dense_NF, request.history.context.dense_NF)


def test_popularity_is_that_of_the_week_s_beginning(probe: Probe, bundle: Bundle, item_ids: pa.Array, log: EventLog) -> None:
    from_ms = int(log.times_ms_E.max()) - 7 * DAY_MS
    before = log.times_ms_E < from_ms
    counts = decayed_counts(log.item_rows_E[before].astype(np.int64), log.times_ms_E[before], from_ms, (14.0,), len(item_ids))
    np.testing.assert_allclose(probe.popularity(bundle.towers.config, item_ids), log_popularity(counts).T, rtol=1e-5)
    backwards = pa.concat_arrays([pa.array(["unheard of"]), item_ids[::-1]])
    there = probe.popularity(bundle.towers.config, backwards)
    assert there[0, 0] == there.min()
    assert (np.argsort(there[1:, 0], kind="stable")[-1], len(there)) == (len(item_ids) - 1 - counts[0].argmax(), 401)


def test_neither_the_order_of_the_file_nor_the_size_of_its_parts_matters(
    probe: Probe, bundle: Bundle, item_ids: pa.Array, tiny_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = pq.read_table(tiny_shop / "events.parquet")
    shuffled = np.random.default_rng(0).permutation(len(events))
    pq.write_table(events.take(shuffled), tmp_path / "events.parquet")
    monkeypatch.setattr("twotower.data.events.BATCH_ROWS", 500)
    monkeypatch.setattr("embedder_cache.checks.probe.MAX_REQUESTS", 10)
    until_ms = popularity_from_events(tmp_path / "events.parquet", bundle, item_ids).as_of_ms
    assert until_ms is not None
    few = read_probe(tmp_path / "events.parquet", item_ids, until_ms, bundle.towers)
    assert len(few) == 10
    end = few.start_Q1[-1]
    assert few.item_ids_E.equals(probe.item_ids_E[:end]), "the ten users that hash lowest, with all of their events"
    np.testing.assert_array_equal(few.times_ms_E, probe.times_ms_E[:end])
    assert few.context_E.equals(probe.context_E[:end])
    assert few.answer_ids_A.equals(probe.answer_ids_A[: len(few.answer_ids_A)])


def test_a_log_that_speaks_of_other_items_gives_no_requests(tiny_shop: Path, bundle: Bundle, log: EventLog) -> None:
    events, until_ms = tiny_shop / "events.parquet", int(log.times_ms_E.max())
    assert not len(read_probe(events, pa.array(["another shop's"]), until_ms, bundle.towers))


def test_answers_are_the_exact_ranking(
    probe: Probe, bundle: Bundle, item_ids: pa.Array, tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Block by block as all at once."""
    path = release_path(tiny_store, read_pointer(tiny_store).release)
    vectors_NV = torch.from_numpy(np.load(path / VECTORS))
    answers = ask(probe, bundle.towers, item_ids, vectors_NV)
    vectors_NV[:, 32:] = torch.from_numpy(probe.popularity(bundle.towers.config, item_ids))
    requests = probe.requests(bundle.towers, item_ids)
    scores = answer(bundle.towers.contextualizer, bundle.towers.config.model, vectors_NV, requests).dense_scores(vectors_NV)
    np.testing.assert_array_equal(answers.top_QK, scores.topk(20).indices.numpy())
    hits = [np.isin(item_ids.take(pa.array(top)), answers_of(probe, q)) for q, top in enumerate(answers.top_QK[:, :10])]
    np.testing.assert_allclose(answers.recall10_Q, [h.sum() / len(answers_of(probe, q)) for q, h in enumerate(hits)])
    monkeypatch.setattr("embedder_cache.checks.probe.BLOCK_SCORES", 1000)  # two requests at a time
    np.testing.assert_array_equal(ask(probe, bundle.towers, item_ids, vectors_NV).top_QK, answers.top_QK)


def answers_of(probe: Probe, request: int) -> list[str]:
    return [i for i, q in zip(probe.answer_ids_A.to_pylist(), probe.answer_query_A, strict=True) if q == request]


def test_popularity_answers_all_alike(probe: Probe, bundle: Bundle, item_ids: pa.Array) -> None:
    popularity = probe.popularity(bundle.towers.config, item_ids)[:, 0]
    top = set(item_ids.take(pa.array(np.argsort(-popularity)[:10])).to_pylist())
    recall, ndcg = ask_popularity(probe, bundle.towers.config)
    shares = [len(top & set(answers_of(probe, q))) / len(answers_of(probe, q)) for q in range(len(probe))]
    np.testing.assert_allclose(recall, shares)
    assert 0 < ndcg.mean() < 1


def test_an_item_that_a_release_lacks_is_missed(probe: Probe, bundle: Bundle, item_ids: pa.Array) -> None:
    """It holds one item, which half of its answers can only be."""
    one = probe.answer_ids_A[:1]
    vectors_1V = torch.ones(1, 33)
    recall = ask(probe, bundle.towers, one, vectors_1V).recall10_Q
    expected = [answers_of(probe, q).count(one[0].as_py()) / len(answers_of(probe, q)) for q in range(len(probe))]
    np.testing.assert_allclose(recall, expected)
    assert recall[0] > 0


def test_overlap_counts_what_is_still_there() -> None:
    nothing = np.zeros(0)
    old, new = (ProbeAnswers(nothing, nothing, np.array(top), np.zeros((0, 0), np.float32)) for top in ([[0, 1, 2]], [[0, 1]]))
    old_ids, new_ids = pa.array(["gone", "hat", "shoe"]), pa.array(["shoe", "glove", "sock", "hat"])
    assert overlap(new, new_ids, old, old_ids) == 0.5, "of hat and shoe the shoe"
    assert overlap(old, old_ids, new, new_ids) == 1.0, "the shoe; the glove is not there"
