"""Asks two releases the same questions and measures how much the answers differ.

N: items, C: items of both releases, Q: questions of a batch, K: answers to a question
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from embedder_cache.catalogue.opened_release import OpenedRelease
from twotower.data.features import DAY_MS, Ints, rows_of
from twotower.metrics.rank_correlation import spearman
from twotower.model.golden import GoldenQuery, golden_request
from twotower.model.scoring import answer

DEPTH = 20
LONGEST_HISTORY = 200
DAYS = 60  # time span of a made-up history
BATCH_QUESTIONS = 8
NUM_RANKED = 20_000  # common items whose order is compared: enough for three digits


class AnswerDrift(msgspec.Struct, frozen=True, kw_only=True):
    """Differences between the answers, as means over the questions. Lists rank each release's catalogue, scores common items.

    `score_shift` is in standard deviations of the older scores. `score_spread` is the newer standard deviation over the older.
    """

    num_golden: int
    num_made_up: int
    depth: int
    overlap: float  # share of the older list that the newer list has too
    overlaps: list[float]  # overlap of each question, golden queries first
    share_added: float  # share of the newer lists: items that the older release did not have
    share_removed: float  # share of the older lists: items that the newer release does not have
    spearman: float | None
    score_shift: float | None
    score_spread: float | None


@dataclass(frozen=True, slots=True)
class Question:
    """A history of items that both releases have, as rows of the older release, and the moment to answer for."""

    older_rows_L: Ints
    times_ms_L: Ints
    now_ms: int


def compare_answers(older: OpenedRelease, newer: OpenedRelease, newer_rows_N: Ints, num_histories: int) -> AnswerDrift:
    """Compare both releases' answers to the older one's golden queries and to `num_histories` made-up histories.

    `newer_rows_N` maps older rows to newer ones, -1 for removed items. At least one item must be common.
    """
    golden = older.golden
    questions = [*golden_questions(golden, older, newer_rows_N), *made_up(older, newer_rows_N, golden[0].now_ms, num_histories)]
    rng = np.random.default_rng(0)
    common_C = np.flatnonzero(newer_rows_N >= 0)
    ranked_C = rng.choice(common_C, min(NUM_RANKED, len(common_C)), replace=False)
    is_added_N = np.ones(len(newer.item_ids), bool)
    is_added_N[newer_rows_N[common_C]] = False
    depth = min(DEPTH, len(older.item_ids), len(newer.item_ids))
    overlaps, added, removed, correlations, shifts, spreads = [], [], [], [], [], []
    for start in range(0, len(questions), BATCH_QUESTIONS):
        batch = questions[start : start + BATCH_QUESTIONS]
        before_QN = scores(older, batch, np.arange(len(newer_rows_N)))
        after_QN = scores(newer, batch, newer_rows_N)
        lists_QK = newer_rows_N[before_QN.topk(depth).indices.numpy()]
        new_lists_QK = after_QN.topk(depth).indices.numpy()
        for before_K, after_K in zip(lists_QK, new_lists_QK, strict=True):
            overlaps.append(float(np.isin(before_K, after_K).mean()))
            removed.append(float((before_K < 0).mean()))
            added.append(float(is_added_N[after_K].mean()))
        before_QC = before_QN[:, torch.from_numpy(ranked_C)].double().numpy()
        after_QC = after_QN[:, torch.from_numpy(newer_rows_N[ranked_C])].double().numpy()
        for before_C, after_C in zip(before_QC, after_QC, strict=True):
            if (spread := before_C.std()) > 0 and after_C.std() > 0:
                correlations.append(float(spearman(np.stack([before_C, after_C], 1))[0, 1]))
                shifts.append(float((after_C.mean() - before_C.mean()) / spread))
                spreads.append(float(after_C.std() / spread))
    return AnswerDrift(
        num_golden=len(golden),
        num_made_up=num_histories,
        depth=depth,
        overlap=float(np.mean(overlaps)),
        overlaps=overlaps,
        share_added=float(np.mean(added)),
        share_removed=float(np.mean(removed)),
        spearman=mean(correlations),
        score_shift=mean(shifts),
        score_spread=mean(spreads),
    )


def mean(values: Sequence[float]) -> float | None:
    """The mean, or None without values."""
    return float(np.mean(values)) if values else None


def golden_questions(golden: Sequence[GoldenQuery], older: OpenedRelease, newer_rows_N: Ints) -> list[Question]:
    """The golden queries without removed items, so that both releases get the same question."""
    questions = []
    for query in golden:
        rows_L = rows_of(pa.array(query.item_ids, older.item_ids.type), older.item_ids)
        here = newer_rows_N[rows_L] >= 0
        questions.append(Question(rows_L[here], np.array(query.times_ms, np.int64)[here], query.now_ms))
    return questions


def made_up(older: OpenedRelease, newer_rows_N: Ints, now_ms: int, num_histories: int) -> list[Question]:
    """Seeded histories of many lengths, mostly short. Items are drawn by their demand in the older release."""
    rng = np.random.default_rng(0)
    common_C = np.flatnonzero(newer_rows_N >= 0)
    demand_C = older.demand_N[common_C]
    lengths = np.exp(rng.uniform(0, np.log(LONGEST_HISTORY), num_histories)).astype(np.int64)
    rows = rng.choice(common_C, int(lengths.sum()), p=demand_C / demand_C.sum() if demand_C.any() else None)
    times = now_ms - rng.integers(1, DAYS * DAY_MS, len(rows))
    ends = np.cumsum(lengths)
    parts = zip(np.split(rows, ends)[:-1], np.split(times, ends)[:-1], strict=True)
    return [Question(rows_L, np.sort(times_L), now_ms) for rows_L, times_L in parts]


def scores(release: OpenedRelease, questions: Sequence[Question], rows_N: Ints) -> Tensor:
    """Scores of a release's whole catalogue, [Q, N]. `rows_N` maps rows of the older release to rows of this one."""
    model, vectors = release.towers.config.model, torch.from_numpy(release.vectors_NV)
    requests = [golden_request(model, rows_N[q.older_rows_L], q.times_ms_L, q.now_ms) for q in questions]
    return answer(release.towers.contextualizer, model, vectors, requests).dense_scores(vectors)
