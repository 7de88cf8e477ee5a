"""Rows of the quality report: our figures with their limits, and those of the other rankers."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from benchmarks.report import Row
from training.evaluation.metrics import Rankings, headline_values, mean, paired_differences, paired_ratio, summarise

COUNTERS = ("popularity", "personal_frequency", "mixture", "tifu_knn")
EXPLORING = "unseen_recall@10"
SHORT = {"ndcg@10": "ndcg10", "recall@10": "recall10", "set_loss": "set_loss", EXPLORING: "unseen_recall10"}
SEQUENTIAL = ("ndcg@10", "recall@10")
ABOVE_ZERO = 1e-9  # a limit that zero does not meet


def journey_rows(rankings: Mapping[str, Rankings], num_items: int, train_min: float) -> list[Row]:
    """Rows of Complete Journey. `rankings` has "ours", the COUNTERS, and any peers."""
    ours = rankings["ours"]
    tables = {name: summarise(ranked, num_items) for name, ranked in rankings.items()}
    differences = {name: paired_differences(ours, ranked) for name, ranked in rankings.items() if name != "ours"}
    our_table = tables["ours"]
    rows = [
        Row(metric="cj_ndcg10", value=our_table["ndcg@10"], unit="", better="higher", must=0.233, goal=0.255),
        Row(metric="cj_recall10", value=our_table["recall@10"], unit="", better="higher", must=0.220, goal=0.240),
        Row(metric="cj_set_loss", value=our_table["set_loss"], unit="nats", better="lower", must=8.68, goal=8.45),
        *_explore_rows(ours, rankings["popularity"]),
        Row(metric="cj_train_min", value=train_min, unit="min", better="lower", must=60.0, goal=30.0),
    ]
    for metric in SEQUENTIAL:
        best = max(COUNTERS, key=lambda counter: tables[counter][metric])
        low = differences[best][f"{metric}.low"]
        rows.append(Row(metric=f"cj_{SHORT[metric]}_margin", value=low, unit="", better="higher", must=ABOVE_ZERO))
    rows += _bounds("cj", our_table, SHORT)
    for name, difference in differences.items():
        rows += _values(f"cj_{name}", tables[name], SHORT) + _bounds(f"cj_ours_minus_{name}", difference, SHORT)
    return rows


def beauty_rows(ours: Sequence[Rankings], others: Mapping[str, Rankings], num_items: int, train_min: float) -> list[Row]:
    """Rows of Amazon Beauty: every seed, mean and standard deviation. Differences to others are of the first seed."""
    limits = {"recall@10": ("beauty_recall10", 0.0897, 0.1008), "ndcg@10": ("beauty_ndcg10", 0.0539, 0.0611)}
    rows = []
    for metric, (name, must, goal) in limits.items():
        values = [mean(headline_values(seed)[metric][0]) for seed in ours]
        rows.append(Row(metric=name, value=float(np.mean(values)), unit="", better="higher", must=must, goal=goal))
        if len(values) > 1:
            rows.append(Row(metric=f"{name}_std", value=float(np.std(values, ddof=1)), unit="", better="lower"))
        for seed, value in enumerate(values):
            rows.append(Row(metric=f"{name}_seed{seed}", value=value, unit="", better="higher"))
    rows.append(Row(metric="beauty_train_min", value=train_min, unit="min", better="lower", must=60.0, goal=30.0))
    rows += _bounds("beauty_seed0", summarise(ours[0], num_items), SEQUENTIAL)
    for name, ranked in others.items():
        rows += _values(f"beauty_{name}", summarise(ranked, num_items), SEQUENTIAL)
        rows += _bounds(f"beauty_ours_minus_{name}", paired_differences(ours[0], ranked), SEQUENTIAL)
    return rows


def _explore_rows(ours: Rankings, popularity: Rankings) -> list[Row]:
    """Our recall of new items over that of popularity, with its interval; no rows if popularity finds none."""
    theirs, _ = headline_values(popularity)[EXPLORING]
    values, users = headline_values(ours)[EXPLORING]
    ratio, low, high = paired_ratio(values, theirs, users)
    if math.isnan(ratio):
        return []
    return [
        Row(metric="cj_explore_vs_popularity", value=ratio, unit="x", better="higher", must=1.3, goal=2.0),
        Row(metric="cj_explore_vs_popularity_low", value=low, unit="x", better="higher"),
        Row(metric="cj_explore_vs_popularity_high", value=high, unit="x", better="higher"),
        Row(metric="cj_unseen_recall10", value=mean(values), unit="", better="higher"),
    ]


def _values(prefix: str, table: Mapping[str, float], metrics: Iterable[str]) -> list[Row]:
    """The figures of a ranker, for metrics that it has."""
    there = [metric for metric in metrics if metric in table]
    return [Row(metric=f"{prefix}_{SHORT[m]}", value=table[m], unit=_unit(m), better=_better(m)) for m in there]


def _bounds(prefix: str, table: Mapping[str, float], metrics: Iterable[str]) -> list[Row]:
    """Both ends of the 95 % intervals, for metrics that have one."""
    ends = [(metric, end) for metric in metrics for end in ("low", "high") if f"{metric}.{end}" in table]
    return [
        Row(metric=f"{prefix}_{SHORT[m]}_{end}", value=table[f"{m}.{end}"], unit=_unit(m), better=_better(m)) for m, end in ends
    ]


def _unit(metric: str) -> str:
    return "nats" if metric == "set_loss" else ""


def _better(metric: str) -> Literal["higher", "lower"]:
    return "lower" if metric == "set_loss" else "higher"
