"""The protocols, the leak tests, and the equality of offline evaluation with one request at a time."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.training.conftest import LEARNS, Shop, read_shop
from training.evaluation import rankers
from training.evaluation.metrics import Rankings, summarise
from training.evaluation.rankers import (
    Model,
    PersonalFrequency,
    Popularity,
    Query,
    Ranker,
    leave_one_out,
    next_basket,
    next_event,
    rank,
    statistics_before,
)
from training.run.loop import prepare_training, train
from twotower.data.features import EncodedRows
from twotower.data.window import anchor
from twotower.model.catalogue import embed_rows
from twotower.model.contextualizer import Contextualizer
from twotower.model.kinds import build_embedder
from twotower.model.scoring import Request, answer


def untrained(shop: Shop, *, content_only: bool = False) -> Model:
    """Seeded towers: every leak shows without training, for a leak is a matter of what is read."""
    torch.manual_seed(0)
    embedder, contextualizer = build_embedder(shop.model), Contextualizer(shop.model)
    torch.nn.init.normal_(contextualizer.popularity_out.weight, std=0.3)
    items = shop.items
    if content_only:
        weights = items.weights_NS.copy()
        weights[:, : shop.model.item_spec.num_id_hashes] = 0
        items = EncodedRows(items.slots_NS, weights, items.dense_NF)
    vectors_ND = embed_rows(embedder.eval(), items).clone()
    return Model(contextualizer.eval(), shop.model, vectors_ND, shop.data.log, shop.data.snapshots)


def queries_of(shop: Shop) -> list[Query]:
    return next_basket(shop.data.log, shop.data.test_from_ms, shop.data.end_ms)


def rankings_of(shop: Shop, ranker: Ranker, queries: list[Query] | None = None) -> Rankings:
    return rank({"one": ranker}, shop.data.log, queries or queries_of(shop), shop.data.train_count_N)["one"]


def with_events(tiny_shop: Path, to: Path, events: pa.Table) -> Shop:
    shutil.copytree(tiny_shop, to)
    pq.write_table(events, to / "events.parquet")
    return read_shop(to)


def test_a_robot_is_asked_a_bounded_number_of_questions(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the first basket, the last, and others evenly between."""
    every = next_basket(shop.data.log, 0, shop.data.end_ms)
    monkeypatch.setattr(rankers, "MAX_BASKETS", 3)
    asked = next_basket(shop.data.log, 0, shop.data.end_ms)
    for user in range(shop.data.log.num_users):
        known = [q.num_known for q in every if q.user == user]
        few = [q.num_known for q in asked if q.user == user]
        assert few == (known if len(known) <= 3 else [known[0], known[round((len(known) - 1) / 2)], known[-1]])


def test_there_is_one_query_per_basket_and_all_its_items_are_answers(shop: Shop, tiny_shop: Path) -> None:
    events = pq.read_table(tiny_shop / "events.parquet")
    keep = [ms >= shop.data.test_from_ms for ms in events["timestamp"].cast(pa.int64()).to_pylist()]
    held_out = events.filter(pa.array(keep))
    queries = queries_of(shop)
    assert len(queries) == len(set(zip(held_out["user_id"].to_pylist(), held_out["timestamp"].to_pylist(), strict=True)))
    assert sum(len(q.answers) for q in queries) == len(held_out)


def test_next_event_asks_once_per_item(shop: Shop) -> None:
    baskets, events = queries_of(shop), next_event(shop.data.log, shop.data.test_from_ms, shop.data.end_ms)
    assert len(events) == sum(len(q.answers) for q in baskets)
    assert {len(q.answers) for q in events} == {1}


def test_leave_one_out_asks_for_the_last_event_and_masks_what_was_seen(shop: Shop) -> None:
    log = shop.data.log
    queries = leave_one_out(log, shop.data.test_from_ms, shop.data.end_ms)
    lasts = log.times_ms_E[log.offsets_U1[1:] - 1]
    assert len(queries) == (lasts >= shop.data.test_from_ms).sum(), "an older last event was trained on"
    assert all(log.times_ms_E[log.span(q.user)[0] + q.num_known - 1] < q.now_ms for q in queries), (
        "nothing of its own basket is known"
    )
    ranked = rankings_of(shop, PersonalFrequency(shop.data.snapshots), queries)
    past = ranked.past_A
    assert past.any()
    assert (ranked.rank_A[past] > len(shop.items) / 4).all(), "a masked answer cannot be found"
    assert np.isnan(ranked.nll_A[past]).all()
    assert np.isnan(ranked.local_nll_A[past]).all()


def test_one_pass_per_window_equals_one_request_at_a_time(shop: Shop) -> None:
    """The service cuts each history by the anchored window and answers alone; evaluation shares passes. Same scores."""
    model, log = untrained(shop), shop.data.log
    queries = [q for q in queries_of(shop) if q.num_known > 0][::7]
    statistics = [statistics_before(log, q) for q in queries]
    together = torch.empty(len(queries), len(shop.items))
    model.score(queries, statistics, together)
    config = shop.model
    for row, (query, past) in enumerate(zip(queries, statistics, strict=True)):
        start = log.span(query.user)[0]
        history = log.history(start + anchor(query.num_known), start + query.num_known)
        popularity = torch.from_numpy(shop.data.snapshots.day(query.now_ms).T)
        vectors_NV = torch.cat([model.vectors_ND, popularity], 1)
        request = Request(history, past, query.now_ms)
        alone = answer(model.contextualizer, config, vectors_NV, [request]).dense_scores(vectors_NV)[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-4)


def test_popularity_added_day_by_day_is_that_added_query_by_query(shop: Shop) -> None:
    """The first is for a device, the second for the processor's cache."""
    model, queries = untrained(shop), queries_of(shop)[:40]
    weights_QP = torch.randn(len(queries), shop.data.snapshots.table_PTN.shape[0], generator=torch.Generator().manual_seed(0))
    by_query, by_day = torch.zeros(2, len(queries), len(shop.items))
    model._add_popularity(by_query, queries, weights_QP)
    model._add_popularity_of_days(by_day, queries, weights_QP)
    torch.testing.assert_close(by_day, by_query)


def test_leak_1_permuting_rows_within_baskets_changes_no_metric(shop: Shop, tiny_shop: Path, tmp_path: Path) -> None:
    events = pq.read_table(tiny_shop / "events.parquet")
    shuffled = events.take(pa.array(np.random.default_rng(0).permutation(len(events)))).sort_by("timestamp")
    other = with_events(tiny_shop, tmp_path / "shuffled", shuffled)
    before = summarise(rankings_of(shop, untrained(shop)), len(shop.items))
    after = summarise(rankings_of(other, untrained(other)), len(shop.items))
    assert before == pytest.approx(after, nan_ok=True)


def relabelled(table: pa.Table) -> pa.Table:
    """The same rows under other item ids, in another order."""
    place = table.column_names.index("item_id")
    numbers = [int(i.removeprefix("item-")) for i in table["item_id"].to_pylist()]
    return table.set_column(place, "item_id", pa.array([f"sku/{n * 7919 % 10_007:05d}" for n in numbers]))


def one_item_per_basket(events: pa.Table) -> pa.Table:
    """The first row of every basket."""
    others = [c for c in events.column_names if c not in ("user_id", "timestamp")]
    first = events.group_by(["user_id", "timestamp"], use_threads=False).aggregate([(c, "first") for c in others])
    return first.rename_columns([c.removesuffix("_first") for c in first.column_names])


def test_leak_2_relabelling_items_changes_nothing_for_a_content_only_model(tiny_shop: Path, tmp_path: Path) -> None:
    """Ids also settle the order inside a basket, by their hash; with one item per basket nothing of them is left."""
    ranks = []
    for name in ("named", "relabelled"):
        shutil.copytree(tiny_shop, tmp_path / name)
        events = one_item_per_basket(pq.read_table(tiny_shop / "events.parquet"))
        items = pq.read_table(tiny_shop / "items.parquet")
        if name == "relabelled":
            events, items = relabelled(events), relabelled(items)
        pq.write_table(events, tmp_path / name / "events.parquet")
        pq.write_table(items, tmp_path / name / "items.parquet")
        other = read_shop(tmp_path / name)
        ranks.append(rankings_of(other, untrained(other, content_only=True)).rank_A)
    np.testing.assert_allclose(ranks[0], ranks[1], atol=1)


def test_leak_2_rehashed_ids_change_nothing_beyond_noise(shop: Shop, tiny_shop: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_shop, tmp_path / "relabelled")
    for name in ("events.parquet", "items.parquet"):
        pq.write_table(relabelled(pq.read_table(tiny_shop / name)), tmp_path / "relabelled" / name)
    results = []
    for each in (shop, read_shop(tmp_path / "relabelled")):
        inputs, state = prepare_training(LEARNS, each.model, each.items, each.sampler(), each.data.snapshots)
        train(inputs, state)
        vectors_ND = embed_rows(state.objective.embedder, each.items).clone()
        ranked = rankings_of(
            each, Model(state.objective.contextualizer, each.model, vectors_ND, each.data.log, each.data.snapshots)
        )
        results.append(summarise(ranked, len(each.items)))
    assert results[0]["recall@10"] > 0.25, "it has learned something that could have leaked"
    assert results[1]["set_loss"] == pytest.approx(results[0]["set_loss"], abs=0.1)
    assert results[1]["recall@10"] == pytest.approx(results[0]["recall@10"], abs=0.03)


def test_leak_3_no_order_of_ids_survives_inside_a_basket(tiny_shop: Path, tmp_path: Path) -> None:
    """The file is sorted by id inside every basket, as real exports are; what the model reads is not."""
    events = pq.read_table(tiny_shop / "events.parquet")
    other = with_events(tiny_shop, tmp_path / "sorted", events.sort_by([("timestamp", "ascending"), ("item_id", "ascending")]))
    log, item_ids = other.data.log, np.array(other.data.item_ids.to_pylist())
    together = np.diff(log.times_ms_E) == 0
    larger = item_ids[log.item_rows_E[1:]] > item_ids[log.item_rows_E[:-1]]
    assert abs(larger[together].mean() - 0.5) < 0.03


def test_leak_4_what_happens_after_the_target_changes_nothing(shop: Shop, tiny_shop: Path, tmp_path: Path) -> None:
    events = pq.read_table(tiny_shop / "events.parquet")
    middle = (shop.data.test_from_ms + shop.data.end_ms) // 2
    early = [ms < middle for ms in events["timestamp"].cast(pa.int64()).to_pylist()]
    past, future = events.filter(pa.array(early)), events.filter(pa.array([not e for e in early]))
    shuffled_items = future["item_id"].take(pa.array(np.random.default_rng(0).permutation(len(future))))
    other_future = future.set_column(future.column_names.index("item_id"), "item_id", shuffled_items)
    other = with_events(tiny_shop, tmp_path / "future", pa.concat_tables([past, other_future]))
    for make in (untrained, lambda s: Popularity(s.data.snapshots), lambda s: PersonalFrequency(s.data.snapshots)):
        ranked = []
        for each in (shop, other):
            queries = next_basket(each.data.log, each.data.test_from_ms, middle)
            ranked.append(rankings_of(each, make(each), queries))
        np.testing.assert_array_equal(ranked[0].rank_A, ranked[1].rank_A)


def test_personal_frequency_ranks_past_items_by_count_then_popularity(shop: Shop) -> None:
    query = max(queries_of(shop), key=lambda q: q.num_known)
    past = statistics_before(shop.data.log, query)
    scores = torch.empty(1, len(shop.items))
    PersonalFrequency(shop.data.snapshots).score([query], [past], scores)
    scores = scores[0]
    best = int(scores.argmax())
    assert past.count_M[past.item_rows_M.tolist().index(best)] == past.count_M.max()
    unseen = np.setdiff1d(np.arange(len(shop.items)), past.item_rows_M)
    assert scores[past.item_rows_M].min() > scores[unseen].max()


def test_batch_local_candidates_are_the_answers_of_64_consecutive_queries(shop: Shop) -> None:
    queries = queries_of(shop)[:70]
    ranked = rankings_of(shop, Popularity(shop.data.snapshots), queries)
    owner = ranked.answer_query_A
    for first, last in ((0, 64), (64, 70)):
        candidates = np.unique(np.concatenate([q.answers for q in queries[first:last]]))
        scores = shop.data.snapshots.day(queries[first].now_ms)[0]
        expected = [1 + (scores[candidates] > scores[a]).sum() for a in queries[first].answers]
        ties = [((scores[candidates] == scores[a]).sum() - 1) / 2 for a in queries[first].answers]
        assert ranked.local_rank_A[owner == first].tolist() == (np.array(expected) + ties).tolist()
