"""A thousand real households, each at the moment of a basket: what the server answers is what the offline evaluation ranks.

The purchases are those of the Complete Journey; the few of items that its catalogue does not know are left out, as they are of
every training. Among them stand searches: a minute before every fortieth purchase, at the moment of some, and several at once.
The towers have the demo's width and half its layers, and were never trained: what is compared is arithmetic, not quality.

N: items, K: results, P: popularity dimensions
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import httpx
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from embedder_cache.build import build_release
from service.histories.history import StoredEvent
from service.histories.remembered import RememberedHistories
from service.histories.sqlite_history import SqliteHistory
from service.release.loaded import LoadedRelease
from service.release.loading import load_release
from service.settings import Settings
from tests.service.conftest import Client
from tests.service.placed import on_tensors, with_model_on_tensors
from training.corpora.complete_journey import SCHEMA, events_table, items_table, package_data, unit_prices
from training.data.event_log import EventLog, read_event_log
from training.data.popularity_snapshots import PopularitySnapshots
from training.evaluation.rankers import QUERIES_PER_BATCH, Model, Query, next_basket, statistics_before
from training.recipes.budget import CONTEXT_TABLE_ROWS
from twotower.artefacts.bundle import load_bundle, save_bundle
from twotower.data.features import EncodedRows, Floats, Ints
from twotower.data.popularity import decayed_counts, log_popularity
from twotower.data.schema import utc_ms
from twotower.data.window import PAGE, WINDOW, anchor
from twotower.model.catalogue import embed_rows, encode_items, fit_item_spec, read_item_ids, stream_items
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer
from twotower.model.kinds import build_embedder

FROM, UNTIL = datetime(2017, 3, 8, tzinfo=UTC), datetime(2017, 4, 5, tzinfo=UTC)
SAMPLED = 1300  # household ids are 1 to 2,500; not every household buys anything within four weeks
HALF_LIVES_DAYS = (14.0, 2.0)
NUM_HISTORIES, NUM_GROWN = 1000, 300
NUM_RESULTS, AT_ONCE, TOLERANCE = 20, 32, 1e-4


@dataclass(frozen=True, slots=True)
class Shop:
    """What both sides are given: histories, a bundle, and the popularity of one night."""

    items: Path
    bundle: Path
    item_ids: pa.Array
    log: EventLog
    stored: list[list[StoredEvent]]  # of each user of the log, in its order
    popularity_NP: Floats


@dataclass(frozen=True, slots=True)
class Ranked:
    """The best of a ranking, best first: NUM_RESULTS, and those that a rounding error could put among them."""

    query: Query
    rows_K: Ints
    scores_K: Floats


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    directory = tmp_path_factory.mktemp("journey")
    events, items, bundle = (directory / name for name in ("events.parquet", "items.parquet", "bundle"))
    columns = msgspec.structs.replace(SCHEMA.events, query="query")
    schema = msgspec.structs.replace(SCHEMA, events=columns, signals=None)
    names = ["household_id", "product_id", "transaction_timestamp", "sales_value", "quantity", "store_id"]
    transactions = pq.read_table(package_data() / "transactions.parquet", columns=names)
    pq.write_table(items_table(pq.read_table(package_data() / "products.parquet"), unit_prices(transactions)), items)
    wanted = (pc.field("household_id") <= SAMPLED) & (pc.field("transaction_timestamp") < pa.scalar(UNTIL.replace(tzinfo=None)))
    bought = with_searches(events_table(transactions.filter(wanted)))
    pq.write_table(bought, events)
    item_ids = read_item_ids(items, schema.items)
    log = read_event_log(events, schema, item_ids, CONTEXT_TABLE_ROWS)
    before, from_ms = log.times_ms_E < utc_ms(FROM), utc_ms(FROM)
    rows = log.item_rows_E[before].astype(np.int64)
    counts_PN = decayed_counts(rows, log.times_ms_E[before], from_ms, HALF_LIVES_DAYS, len(item_ids))
    popularity_NP = log_popularity(counts_PN).T
    popularity = pa.table({"item_id": item_ids, "log_popularity": pa.array(popularity_NP.tolist(), pa.list_(pa.float32()))})
    model = ModelConfig(
        item_spec=fit_item_spec(items, schema.items),
        context_spec=log.context_spec,
        context_table_rows=CONTEXT_TABLE_ROWS,
        num_layers=2,
        num_popularity=len(HALF_LIVES_DAYS),
        query_field="title",
    )
    torch.manual_seed(0)
    embedder, contextualizer = build_embedder(model), Contextualizer(model)
    stir(contextualizer)
    save_bundle(bundle, embedder, contextualizer, model, HALF_LIVES_DAYS, schema, popularity, {}, {})
    return Shop(items, bundle, item_ids, log, stored_events(bought, log, item_ids), popularity_NP)


def with_searches(bought: pa.Table) -> pa.Table:
    """The purchases, and after them in the file the searches."""
    kinds = [(7, 60_000), (3, 0), (0, 61_000), (0, 60_000)]  # which rows of 40, and how long before the purchase
    texts = ["whole milk", "frozen pizza", "DOG food, dry", "Q7", "熱いお茶", "a word that nobody sells", "milk"]
    parts = [bought.append_column("query", pa.nulls(len(bought), pa.string()))]
    for place, ago_ms in kinds:
        rows = bought.take(pa.array(range(place, len(bought), 40)))
        earlier = pc.subtract(rows["timestamp"], pa.scalar(ago_ms, pa.duration("ms")))
        parts.append(
            pa.table(
                {
                    "user_id": rows["user_id"],
                    "item_id": pa.nulls(len(rows), pa.string()),
                    "timestamp": earlier,
                    "event_type": pa.array(["search"] * len(rows)),
                    "price_paid": pa.nulls(len(rows), pa.float64()),
                    "store_id": rows["store_id"],
                    "query": [texts[(place + n) % len(texts)] for n in range(len(rows))],
                }
            )
        )
    return pa.concat_tables(parts)


@torch.no_grad()
def stir(contextualizer: Contextualizer) -> None:
    """A new model's biases are 0, its norms 1 and its queries nearly the same for all: then much could be wrong unseen."""
    for parameter in contextualizer.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.1 * torch.randn_like(parameter))
    for layer in (contextualizer.popularity_out, contextualizer.repeat_mlp[-1]):
        assert isinstance(layer, torch.nn.Linear)
        layer.weight.mul_(10)


def stored_events(bought: pa.Table, log: EventLog, item_ids: pa.Array) -> list[list[StoredEvent]]:
    """The rows of the file as a shop would send them, in the order of the log; equal ones keep that of the file."""
    rows = defaultdict[Any, list[StoredEvent]](list)
    times_ms = bought["timestamp"].cast(pa.int64())
    columns = (bought[name].to_pylist() for name in ("user_id", "item_id", "event_type", "price_paid", "store_id", "query"))
    for user, item, kind, price, store, query, time_ms in zip(*columns, times_ms.to_pylist(), strict=True):
        properties = {"price_paid": price, "store_id": store}
        event = StoredEvent(user_id=user, item_id=item, event_type=kind, time_ms=time_ms, query=query, properties=properties)
        rows[user, item, time_ms].append(event)
    ids, times, stored = item_ids.to_pylist(), log.times_ms_E.tolist(), list[list[StoredEvent]]()
    assert log.searches is not None
    for u, user in enumerate(log.user_ids):
        events = [rows[user, ids[log.item_rows_E[e]], times[e]].pop(0) for e in range(*log.span(u))]
        first = int(log.searches.offsets_U1[u])
        for number, before in enumerate(log.searches.before(u).tolist()):
            time_ms = int(log.searches.times_ms_R[first + number])
            events.insert(before - log.span(u)[0] + number, rows[user, None, time_ms].pop(0))
        stored.append(events)
    return stored


def num_events(shop: Shop, query: Query) -> int:
    """How many events a query may know, searches included."""
    return int(shop.log.num_known(query.user, np.array(shop.log.span(query.user)[0] + query.num_known)))


@pytest.fixture(scope="module")
def queries(shop: Shop) -> list[Query]:
    """Households at the moment of their first basket from FROM on, by length: then little of a batch is padding."""
    first = {q.user: q for q in reversed(next_basket(shop.log, utc_ms(FROM), utc_ms(UNTIL)))}
    return sorted([first[user] for user in sorted(first)][:NUM_HISTORIES], key=lambda q: q.num_known)


@pytest.fixture(scope="module")
def offline(shop: Shop) -> Model:
    """The evaluation's model, with vectors of its own making."""
    towers = load_bundle(shop.bundle).towers
    config = towers.config.model
    parts = [encode_items(t, config.item_spec, config.table_rows) for t in stream_items(shop.items, towers.schema.items)]
    vectors_ND = embed_rows(towers.embedder, EncodedRows.concatenate(parts)).clone()
    that_night = PopularitySnapshots(shop.popularity_NP.T[:, None], start_ms=0, step_ms=1)
    return Model(towers.contextualizer, config, vectors_ND, shop.log, that_night, towers.embedder)


@pytest.fixture(scope="module")
def server(shop: Shop, queries: list[Query], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server of that night's release; its store holds of each household what the query may know.

    Of every third household the events arrive out of order, in several appends.
    """
    directory = tmp_path_factory.mktemp("serving")
    build_release(load_bundle(shop.bundle), shop.items, directory / "store", None)
    # Nothing is refused however slow the machine, and what is kept of users is used as it is.
    settings = Settings(store=directory / "store", torch_threads=1, max_wait_s=600, request_timeout_s=600, verify_share=0)
    file = SqliteHistory(directory / "history.db")
    history = RememberedHistories(file, settings.history_cache_mb << 20, lambda: None)
    history.follow(file)
    with Client(settings, load_release(directory / "store"), history) as client:
        random = Random(0)
        for place, query in enumerate(queries):
            events = shop.stored[query.user][: num_events(shop, query)]
            for part in out_of_order(events, random) if place % 3 == 0 else [events]:
                assert all(client.run(history.append(part)))
        yield client


def out_of_order(events: list[StoredEvent], random: Random) -> list[list[StoredEvent]]:
    """The events in three parts that arrive one after another, those of one moment in one part."""
    moments = {event.time_ms: random.randrange(3) for event in events}
    return [[e for e in events if moments[e.time_ms] == part] for part in range(3)]


def rank(model: Model, queries: Sequence[Query]) -> list[Ranked]:
    """The evaluation's ranking of the whole catalogue for each query."""
    ranked, scores_QN = [], torch.empty(QUERIES_PER_BATCH, len(model.vectors_ND))
    for begin in range(0, len(queries), QUERIES_PER_BATCH):
        batch = queries[begin : begin + QUERIES_PER_BATCH]
        model.score(batch, [statistics_before(model.log, q) for q in batch], scores_QN[: len(batch)])
        for query, scores_N in zip(batch, scores_QN.numpy(), strict=False):
            lowest = np.partition(scores_N, -NUM_RESULTS)[-NUM_RESULTS]
            rows_K = np.flatnonzero(scores_N >= lowest - TOLERANCE)
            rows_K = rows_K[np.argsort(-scores_N[rows_K])]
            ranked.append(Ranked(query, rows_K, scores_N[rows_K]))
    return ranked


async def ask(client: Client, shop: Shop, queries: Sequence[Query]) -> list[dict[str, Any]]:
    """The answers, several questions under way at any time."""

    async def one(query: Query) -> httpx.Response:
        asked = {"user_id": shop.log.user_ids[query.user], "timestamp": query.now_ms, "num_results": NUM_RESULTS}
        return await client.http.post("/v1/recommend", json=asked)

    answers: list[dict[str, Any]] = []
    for begin in range(0, len(queries), AT_ONCE):
        responses = await asyncio.gather(*map(one, queries[begin : begin + AT_ONCE]))
        assert {response.status_code for response in responses} == {200}
        answers += [response.json() for response in responses]
    return answers


def check(shop: Shop, expected: Sequence[Ranked], answers: Sequence[dict[str, Any]], all_is_known: bool = True) -> None:
    """At each place stands the item that the evaluation puts there, or one whose score there differs by a rounding error."""
    for ranked, answer in zip(expected, answers, strict=True):
        num_known = num_events(shop, ranked.query)
        assert not all_is_known or answer["history_seq"] == num_known
        assert (answer["degraded"], answer["events_ignored"]) == ([], 0)
        assert answer["events_used"] == num_known - anchor(num_known)
        score_of = dict(zip(shop.item_ids.take(pa.array(ranked.rows_K)).to_pylist(), ranked.scores_K, strict=True))
        served = {item["item_id"]: item["score"] for item in answer["items"]}
        assert len(served) == NUM_RESULTS
        there = [score_of.get(item_id, -np.inf) for item_id in served]
        np.testing.assert_allclose(there, ranked.scores_K[:NUM_RESULTS], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(list(served.values()), there, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def answers(shop: Shop, queries: list[Query], server: Client) -> list[dict[str, Any]]:
    return server.run(ask(server, shop, queries))


def test_the_histories_are_of_every_length_and_many_have_searches(shop: Shop, queries: list[Query]) -> None:
    lengths = np.array([num_events(shop, q) for q in queries])
    searched = [[e.query is not None for e in shop.stored[q.user][:n]] for q, n in zip(queries, lengths, strict=True)]
    assert sum(map(any, searched)) > NUM_HISTORIES / 2
    assert sum(kinds[-1:] == [True] for kinds in searched) > 10, "the last event is a search"
    assert len(queries) == NUM_HISTORIES
    assert (lengths == 0).any()
    for low, high, at_least in ((1, 20, 50), (193, 257, 50), (257, 320, 50), (321, 2000, 50)):
        assert ((lengths >= low) & (lengths < high)).sum() >= at_least


def test_a_thousand_answers_are_those_of_the_offline_evaluation(
    shop: Shop, offline: Model, queries: list[Query], server: Client, answers: list[dict[str, Any]]
) -> None:
    sample = server.context.metrics.registry.get_sample_value
    num_answered, num_batches = (sample(f"twotower_batch_size_{name}") or 0.0 for name in ("sum", "count"))
    assert num_answered > 2 * num_batches, "or they were answered one by one"
    check(shop, rank(offline, queries), answers)


def test_they_still_are_when_histories_grew_and_only_what_is_new_was_read(
    shop: Shop, offline: Model, queries: list[Query], server: Client, answers: list[dict[str, Any]]
) -> None:
    """By one event, a third of them by up to five; long ones first, and of these where the window's anchor is about to move."""
    with_room = [q for q in queries if shop.log.span(q.user)[1] - shop.log.span(q.user)[0] > q.num_known + 5]
    chosen = sorted(with_room, key=lambda q: (q.num_known < WINDOW, -q.num_known % PAGE))[:NUM_GROWN]
    grown, new = list[Query](), list[StoredEvent]()
    for place, query in enumerate(chosen):
        start, num_known = shop.log.span(query.user)[0], query.num_known + (1 if place % 3 else 5 - place // 3 % 5)
        # Within a basket too: then a moment later, because events of the moment itself are not known.
        before_ms, next_ms = shop.log.times_ms_E[start + num_known - 1 : start + num_known + 1].tolist()
        grown.append(replace(query, num_known=num_known, now_ms=max(next_ms, before_ms + 1)))
        new += shop.stored[query.user][num_events(shop, query) : num_events(shop, grown[-1])]
    assert server.post("/v1/events", {"events": [sent(e) for e in new]}).json()["accepted"] == len(new)
    sizes = [(num_events(shop, q), num_events(shop, o)) for q, o in zip(grown, chosen, strict=True)]
    assert sum(after > WINDOW and anchor(after) != anchor(before) for after, before in sizes) >= 3
    hits = server.app.cache.counters.hits
    again = server.run(ask(server, shop, grown))
    assert server.app.cache.counters.hits - hits == NUM_GROWN
    check(shop, rank(offline, grown), again)


def test_a_past_moment_is_answered_as_it_would_have_been_then_or_says_that_it_is_not(
    shop: Shop, offline: Model, queries: list[Query], server: Client
) -> None:
    """The moment of each household's last basket but one; of histories of up to 256 events nothing is forgotten."""
    last_but_one, last = dict[int, Query](), dict[int, Query]()
    for query in next_basket(shop.log, 0, utc_ms(FROM)):
        if query.user in last:
            last_but_one[query.user] = last[query.user]
        last[query.user] = query
    known = [query for query in queries if query.user in last_but_one]
    then = [last_but_one[query.user] for query in known]
    asked = server.run(ask(server, shop, then))
    short = [answer for query, answer in zip(known, asked, strict=True) if num_events(shop, query) <= WINDOW - 5]
    assert len(short) > 200
    assert not any(answer["degraded"] for answer in short)
    exact = [(query, answer) for query, answer in zip(then, asked, strict=True) if not answer["degraded"]]
    assert len(exact) > len(short) + 20, "of some longer histories everything that counted then is kept too"
    check(shop, rank(offline, [query for query, _ in exact]), [answer for _, answer in exact], all_is_known=False)
    others = [(query, answer) for query, answer in zip(then, asked, strict=True) if answer["degraded"]]
    assert {note for _, answer in others for note in answer["degraded"]} == {"past_forgotten"}
    best = [
        shop.item_ids.take(pa.array(r.rows_K[:NUM_RESULTS])).to_pylist() for r in rank(offline, [query for query, _ in others])
    ]
    served = [{item["item_id"] for item in answer["items"]} for _, answer in others]
    assert np.mean([len(set(b) & s) for b, s in zip(best, served, strict=True)]) > 0.9 * NUM_RESULTS


@pytest.fixture(params=[64, pytest.param(NUM_HISTORIES, marks=[pytest.mark.kernels, pytest.mark.timeout(900)])])
def some(request: pytest.FixtureRequest, queries: list[Query]) -> list[Query]:
    """Some of the households, or all, by length."""
    return queries[:: len(queries) // request.param]


def test_the_reader_of_a_device_gives_the_answers_of_the_cpu(shop: Shop, some: list[Query], server: Client) -> None:
    """Model and search on CPU tensors, the second time from pages, of which there are too few for all."""
    ours, *theirs = answers_of_both(shop, some, server, on_tensors(server.context.served.current, pool_bytes=4 << 21))
    for expected, answer in zip(ours * 2, theirs[0] + theirs[1], strict=True):
        score_of, served = scores(expected), scores(answer)
        tolerance = 1e-5 * max(1.0, np.abs(list(score_of.values())).max())
        common = [item_id for item_id in score_of if item_id in served]
        assert_close([served[i] for i in common], [score_of[i] for i in common], tolerance)
        # At each place stands the same item, or one with the same score but for rounding; the last may be another.
        there = [score_of.get(item_id, -np.inf) for item_id in served]
        assert_close(there[:-1], list(score_of.values())[:-1], 2 * tolerance)
        assert set(list(score_of)[:10]) == set(list(served)[:10])


class InBfloat16(Model):
    """The evaluation's model with its layers in bfloat16, as torch computes them on a CPU."""

    def _hidden(self, queries: Sequence[Query], windows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            hidden_QD, read_QD = super()._hidden(queries, windows)
            return hidden_QD.float(), read_QD.float()


def test_in_bfloat16_the_reader_of_a_device_errs_no_more_than_torch(
    shop: Shop, offline: Model, some: list[Query], server: Client
) -> None:
    """Than torch with its layers in bfloat16 on a CPU. Of the best ten .99 are the same.

    Queries are ten times those of a new model, and so are their errors.
    """
    release = with_model_on_tensors(server.context.served.current, torch.bfloat16, pool_bytes=2 << 21)
    ours, *theirs = answers_of_both(shop, some, server, release)
    in_torch = InBfloat16(*(getattr(offline, field.name) for field in fields(offline)))
    row_of = {item_id: row for row, item_id in enumerate(shop.item_ids.to_pylist())}
    torch_errors, scores_QN = [], torch.empty(QUERIES_PER_BATCH, len(row_of))
    for begin in range(0, len(some), QUERIES_PER_BATCH):
        batch = some[begin : begin + QUERIES_PER_BATCH]
        in_torch.score(batch, [statistics_before(in_torch.log, q) for q in batch], scores_QN[: len(batch)])
        for scores_N, expected in zip(scores_QN.numpy(), ours[begin : begin + len(batch)], strict=False):
            score_of = scores(expected)
            torch_errors.append(np.abs(scores_N[[row_of[i] for i in score_of]] - list(score_of.values())).max())
    errors, overlaps = [], []
    for expected, answer in zip(ours * 2, theirs[0] + theirs[1], strict=True):
        score_of, served = scores(expected), scores(answer)
        errors.append(max(abs(served[i] - score_of[i]) for i in score_of.keys() & served.keys()))
        overlaps.append(len(set(list(score_of)[:10]) & set(list(served)[:10])) / 10)
    assert 1e-3 < max(errors) <= 1.5 * max(torch_errors)
    assert np.mean(errors) <= 1.2 * np.mean(torch_errors)
    assert np.mean(overlaps) >= 0.99


def answers_of_both(shop: Shop, some: Sequence[Query], server: Client, release: LoadedRelease) -> list[list[dict[str, Any]]]:
    """The answers of the server, then twice those of one whose reader is that of a device."""
    store = Path(server.context.settings.store)
    with Client(server.context.settings, release, SqliteHistory(store.parent / "history.db")) as client:
        theirs = [client.run(ask(client, shop, some)) for _ in range(2)]
    assert release.device_model is not None
    assert release.device_model.pool.counters.evictions > 0
    return [server.run(ask(server, shop, some)), *theirs]


def scores(answer: dict[str, Any]) -> dict[str, float]:
    """By item id, best first."""
    return {item["item_id"]: item["score"] for item in answer["items"]}


def assert_close(actual: Sequence[float], expected: Sequence[float], tolerance: float) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def sent(event: StoredEvent) -> dict[str, Any]:
    """An event as a client sends it."""
    fields = msgspec.to_builtins(event)
    return {"timestamp": fields.pop("time_ms"), **fields}


PARTS = {
    "events read": "norm.weight",
    "taste": "past_attention.out.weight",
    "what repeats": "repeat_mlp.4.weight",
    "what this user repeats": "repeat_query.weight",
}


@pytest.mark.parametrize("part", [*PARTS, "popularity"])
def test_every_part_of_the_score_decides_what_is_answered(offline: Model, queries: list[Query], part: str) -> None:
    """Without it most answers would be others."""
    some = queries[-500:-484]
    if part == "popularity":
        without = replace(offline, snapshots=replace(offline.snapshots, table_PTN=np.zeros_like(offline.snapshots.table_PTN)))
    else:
        without = replace(offline, contextualizer=deepcopy(offline.contextualizer))
        without.contextualizer.get_parameter(PARTS[part]).data.zero_()
    changed = [
        list(there.rows_K[:NUM_RESULTS]) != list(gone.rows_K[:NUM_RESULTS])
        for there, gone in zip(rank(offline, some), rank(without, some), strict=True)
    ]
    assert 2 * sum(changed) > len(some)
