"""Real requests from the end of the event log, and the answers of a release to them.

A request is a user's last basket in the last week of the log: its items are the answers, and all earlier events are the
history. Every release is asked with popularity as of the beginning of that week, because popularity as of its end, which is
what gets published, already contains the answers, and an older release was published with fewer days. Signals hold for one
day, not for that week, so they are zero.

Q: requests, E: events of their users, A: answers of all requests, N: items, D: item vector width, P: half-lives (then signals),
V: D + P, K: results
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from twotower.artefacts.bundle import BundleConfig, Towers
from twotower.data.events import stream_events
from twotower.data.features import DAY_MS, Floats, Ints, encode_rows, fingerprint, rows_of
from twotower.data.item_statistics import item_statistics
from twotower.data.popularity import Counts, decayed_counts, log_popularity
from twotower.data.schema import EventColumns
from twotower.data.window import History, anchor
from twotower.errors import DataError
from twotower.metrics.ranking import Array, ndcg_at, recall_at, tied_ranks
from twotower.model.scoring import Request, answer_as_of
from twotower.tables.table import open_table

PERIOD_DAYS = 7  # so that every weekday counts once
MAX_REQUESTS = 256
TOP = 20
BLOCK_REQUESTS = 32
BLOCK_SCORES = 2**24  # scores in memory at a time: 64 MiB


@dataclass(frozen=True, slots=True)
class Probe:
    """Requests that name items by id, because each release has rows of its own.

    The events of request q are [start_Q1[q], start_Q1[q + 1]), oldest first. Those from answer_Q[q] on are the basket.
    """

    item_ids_E: pa.Array
    times_ms_E: Ints
    context_E: pa.Table  # columns: event_type and the event features of the schemas
    start_Q1: Ints
    answer_Q: Ints
    answer_ids_A: pa.Array  # only items that are in `catalogue`
    answer_query_A: Ints
    catalogue: pa.Array
    counts: dict[float, Counts]  # half-life in days -> decayed counts [N] at the beginning of the week

    def __len__(self) -> int:
        return len(self.answer_Q)

    def popularity(self, config: BundleConfig, item_ids: pa.Array) -> Floats:
        """Popularity dimensions [N, P] of any catalogue as of the beginning of the week. Signals are zero."""
        rows = rows_of(item_ids, self.catalogue)
        counts_PN = np.stack([np.where(rows >= 0, self.counts[h][rows], 0) for h in config.popularity_half_lives_days])
        silent = np.zeros((len(item_ids), config.num_signals), np.float32)
        return np.concatenate([log_popularity(counts_PN).T, silent], 1)

    def requests(self, towers: Towers, item_ids: pa.Array) -> list[Request]:
        """The requests as the service would build them for a release with these items."""
        model = towers.config.model
        rows_E = rows_of(self.item_ids_E, item_ids)
        known = [np.flatnonzero(rows_E[a:b] >= 0) + a for a, b in zip(self.start_Q1[:-1], self.answer_Q, strict=True)]
        windows = [k[anchor(len(k), model.window, model.page) :] for k in known]
        bounds = np.cumsum([0, *map(len, windows)])
        read = self.context_E.take(pa.array(np.concatenate(windows)))
        columns = {name: read.column(name).combine_chunks() for name in read.column_names}
        context = encode_rows(columns, model.context_spec, model.context_table_rows)
        return [
            Request(
                History(rows_E[window], self.times_ms_E[window], context.take(np.arange(*bounds[q : q + 2]))),
                item_statistics(rows_E[k], self.times_ms_E[k]),
                now_ms=int(self.times_ms_E[self.answer_Q[q]]),
            )
            for q, (k, window) in enumerate(zip(known, windows, strict=True))
        ]


@dataclass(frozen=True, slots=True)
class ProbeAnswers:
    """The answers of one release to a probe."""

    recall10_Q: Array
    ndcg10_Q: Array
    top_QK: Ints  # the best 20 items of each request, as rows of the release
    queries_QV: Floats

    @property
    def coverage(self) -> float:
        """Catalogue coverage: distinct items over all places of all lists."""
        return len(np.unique(self.top_QK)) / self.top_QK.size


def read_probe(events: Path, item_ids: pa.Array, until_ms: int, towers: Towers, *others: Towers) -> Probe:
    """Requests of the week before `until_ms`, the time of the last event. Two passes; only the sampled users' events are kept.

    The users whose ids hash lowest are sampled, so that the sample stays the same from night to night and does not depend on
    the order of the log. `others` are towers that will be asked too: their event features are read where the log has them.
    """
    columns, present = towers.schema.events, open_table(events, "events").schema.names
    half_lives = {h for t in (towers, *others) for h in t.config.popularity_half_lives_days}
    old = [name for t in others for name in t.schema.events.features if name in present]
    features = tuple(dict.fromkeys([*columns.features, *old]))
    last_ms, counts_PN = _first_pass(events, columns, item_ids, until_ms - PERIOD_DAYS * DAY_MS, tuple(half_lives))
    owner_E, times_ms_E, item_ids_E, context_E = _second_pass(events, columns, features, last_ms)
    order = np.lexsort((fingerprint("order inside a basket", item_ids_E), times_ms_E, owner_E))
    owner_E, times_ms_E, item_ids_E = owner_E[order], times_ms_E[order], item_ids_E.take(pa.array(order))
    in_answer_E = times_ms_E == np.array(list(last_ms.values()), np.int64)[owner_E]
    rows_E = rows_of(item_ids_E, item_ids)
    keys_A = np.unique((owner_E << 32 | rows_E)[in_answer_E & (rows_E >= 0)])
    start_Q1 = np.searchsorted(owner_E, np.arange(len(last_ms) + 1))
    return Probe(
        item_ids_E=item_ids_E,
        times_ms_E=times_ms_E,
        context_E=context_E.take(pa.array(order)),
        start_Q1=start_Q1,
        answer_Q=start_Q1[1:] - np.bincount(owner_E[in_answer_E], minlength=len(last_ms)),
        answer_ids_A=item_ids.take(pa.array(keys_A & 0xFFFFFFFF)),
        answer_query_A=keys_A >> 32,
        catalogue=item_ids,
        counts=dict(zip(half_lives, counts_PN, strict=True)),
    )


def _first_pass(
    events: Path, columns: EventColumns, item_ids: pa.Array, from_ms: int, half_lives: tuple[float, ...]
) -> tuple[dict[str, int], Counts]:
    """The time of the last basket of each sampled user, and the catalogue's counts [P, N] at the period's start."""
    last_ms: dict[str, int] = {}
    counts_PN = np.zeros((len(half_lives), len(item_ids)))
    for batch in stream_events(events, columns):
        rows_E = rows_of(batch.item_ids, item_ids)
        before_E = (rows_E >= 0) & (batch.times_ms_E < from_ms)
        counts_PN += decayed_counts(rows_E[before_E], batch.times_ms_E[before_E], from_ms, half_lives, len(item_ids))
        recent = pc.and_(pa.array((rows_E >= 0) & (batch.times_ms_E >= from_ms)), pc.not_equal(batch.user_ids, ""))
        table = (
            pa.table({"user": batch.user_ids, "ms": batch.times_ms_E}).filter(recent).group_by("user").aggregate([("ms", "max")])
        )
        for user, ms in zip(table.column("user").to_pylist(), table.column("ms_max").to_pylist(), strict=True):
            last_ms[user] = max(ms, last_ms.get(user, ms))
        # A user who is dropped here has 256 users with lower hashes and stays dropped, so none returns with half of the events.
        users = list(last_ms)
        lowest = np.argsort(fingerprint("probe", pa.array(users, pa.string())), kind="stable")[:MAX_REQUESTS]
        last_ms = {users[i]: last_ms[users[i]] for i in lowest}
    return last_ms, counts_PN


def _second_pass(
    events: Path, columns: EventColumns, features: tuple[str, ...], last_ms: dict[str, int]
) -> tuple[Ints, Ints, pa.Array, pa.Table]:
    """Owner, time, item and context of the sampled users' events up to their last basket, in file order."""
    users, last_ms_U = pa.array(list(last_ms), pa.string()), np.array([*last_ms.values(), 0], np.int64)
    parts = []
    for batch in stream_events(events, columns, features):
        owner_E = rows_of(batch.user_ids, users)  # -1, of users not sampled, picks the 0 at the end of last_ms_U
        kept = np.flatnonzero((owner_E >= 0) & (batch.times_ms_E <= last_ms_U[owner_E]))
        context = pa.table({"event_type": batch.event_types, **batch.features}).take(pa.array(kept))
        parts.append((owner_E[kept], batch.times_ms_E[kept], batch.item_ids.take(pa.array(kept)), context))
    owners, times, items, contexts = zip(*parts, strict=True)
    return np.concatenate(owners), np.concatenate(times), pa.concat_arrays(items), pa.concat_tables(contexts)


@torch.inference_mode()
def ask(probe: Probe, towers: Towers, item_ids: pa.Array, vectors_NV: Tensor) -> ProbeAnswers:
    """Rank the whole catalogue of a release for every request. An answer that the release does not have counts as missed.

    Takes 64 MiB for scores, or the scores of one request where these are more. DataError when a score is not finite.
    """
    model = towers.config.model
    vectors_ND = vectors_NV[:, : model.width]
    popularity_NP = torch.from_numpy(probe.popularity(towers.config, item_ids))
    requests = probe.requests(towers, item_ids)
    answer_rows_A = rows_of(probe.answer_ids_A, item_ids)
    rank_A = np.full(len(answer_rows_A), np.inf)
    size = max(1, min(BLOCK_REQUESTS, BLOCK_SCORES // len(item_ids)))
    scores_QN, rows_N = torch.empty(size, len(item_ids)), torch.arange(len(item_ids))
    tops, queries = [], []
    for begin in range(0, len(requests), size):
        batch = requests[begin : begin + size]
        found = answer_as_of(towers.contextualizer, model, vectors_ND, popularity_NP, batch)
        block_QN = scores_QN[: len(batch)]
        torch.matmul(found.vectors_QV[:, : model.width], vectors_ND.T, out=block_QN)
        block_QN.addmm_(found.vectors_QV[:, model.width :], popularity_NP.T)
        found.add_repeat_scores(block_QN, rows_N)
        if not math.isfinite(block_QN.sum().item()):
            raise DataError("the scores of real requests are not finite: train the bundle again")
        for q, scores_N in enumerate(block_QN.numpy(), start=begin):
            held_A = (probe.answer_query_A == q) & (answer_rows_A >= 0)
            rank_A[held_A] = ranks(scores_N, answer_rows_A[held_A])
        tops.append(block_QN.topk(min(TOP, len(item_ids))).indices.numpy())
        queries.append(found.vectors_QV.numpy())
    graded = (rank_A, probe.answer_query_A, len(probe))
    return ProbeAnswers(recall_at(10, *graded), ndcg_at(10, *graded), np.concatenate(tops), np.concatenate(queries))


def ask_popularity(probe: Probe, config: BundleConfig) -> tuple[Array, Array]:
    """Recall@10 and NDCG@10 [Q] of the list of the most popular items by the first half-life, the same for every request."""
    rank_A = ranks(probe.popularity(config, probe.catalogue)[:, 0], rows_of(probe.answer_ids_A, probe.catalogue))
    graded = (rank_A, probe.answer_query_A, len(probe))
    return recall_at(10, *graded), ndcg_at(10, *graded)


def ranks(scores_N: Floats, rows: Ints) -> Array:
    """Rank of each row among all items; ties share their mean rank."""
    return tied_ranks(np.ascontiguousarray(scores_N), rows, past=np.zeros(0, np.int64))[0]


def overlap(new: ProbeAnswers, item_ids: pa.Array, old: ProbeAnswers, old_item_ids: pa.Array) -> float:
    """Mean share of the old top 20 that is in the new top 20. Items that the new release lacks do not count."""
    shares = []
    rows_QK = rows_of(old_item_ids.take(pa.array(old.top_QK.ravel())), item_ids).reshape(old.top_QK.shape)
    for wanted, top in zip(rows_QK, new.top_QK, strict=True):
        if len(here := wanted[wanted >= 0]):
            shares.append(np.isin(here, top).mean())
    return float(np.mean(shares)) if shares else 0.0
