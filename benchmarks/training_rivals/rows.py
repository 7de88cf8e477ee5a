"""Rows of the quality report: our figures with their limits, those of counters and peers, and the intervals of all."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.report import Row
from training.evaluation.metrics import Array, Rankings, headline_values, mean, paired_ratio
from twotower.data.features import Ints
from twotower.metrics.ranking import user_bootstrap

EXPLORING = "unseen_recall@10"
SHORT = {"ndcg@10": "ndcg10", "recall@10": "recall10", "set_loss": "set_loss", EXPLORING: "unseen_recall10"}
SEQUENTIAL = ("ndcg@10", "recall@10")
ABOVE_ZERO = 1e-9  # a limit that zero does not meet
# Quantiles .975 of Student's t with 1, 2, ... degrees of freedom. More seeds use the last, which widens their interval a little.
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)

Limits = Mapping[str, tuple[float, float]]  # of a metric: must and goal
JOURNEY_LIMITS: Limits = {"ndcg@10": (0.245, 0.255), "recall@10": (0.232, 0.240), "set_loss": (8.36, 8.30)}
BEAUTY_LIMITS: Limits = {"recall@10": (0.0930, 0.1010), "ndcg@10": (0.0555, 0.0615)}


@dataclass(frozen=True)
class Runs:
    """A model, or a counter as its only run: the rankings of each seed. Minutes are of the longest training."""

    seeds: Sequence[Rankings]
    train_min: float | None = None
    parameters: int | None = None
    embedder_share: float | None = None

    def values(self, metric: str) -> tuple[Array, Ints]:
        """The mean over the seeds of each value whose mean is the metric, and the user of each value."""
        per_seed = [headline_values(rankings)[metric] for rankings in self.seeds]
        return np.mean([values for values, _ in per_seed], axis=0), per_seed[0][1]

    def means(self, metric: str) -> list[float]:
        """The metric for each seed; NaN where the model has none."""
        return [mean(headline_values(rankings)[metric][0]) for rankings in self.seeds]

    def mean(self, metric: str) -> float:
        """Mean of the metric over the seeds."""
        return float(np.mean(self.means(metric)))


def journey_rows(models: Mapping[str, Runs], counters: Mapping[str, Runs], peers: Mapping[str, Runs]) -> list[Row]:
    """Rows of Complete Journey. `models` has "ours", and `counters` at least "popularity" and "ease_recent"."""
    ours = models["ours"]
    rows = _model_rows("cj", ours, tuple(SHORT), JOURNEY_LIMITS)
    rows += _training_rows("cj", ours, must_min=60.0, goal_min=30.0)
    rows += _explore_rows("cj_explore_vs_popularity", ours, counters["popularity"], must=1.5, goal=2.0)
    rows += _explore_rows("cj_explore_vs_ease", ours, counters["ease_recent"], must=None, goal=1.0)
    for metric in SEQUENTIAL:
        best = max(counters.values(), key=lambda counter: counter.mean(metric))
        low = paired_interval(ours, best, metric)[0]
        rows.append(Row(metric=f"cj_{SHORT[metric]}_margin", value=low, unit="", better="higher", must=ABOVE_ZERO))
    return rows + _rows_of_others("cj", ours, {**counters, **peers}, tuple(SHORT))


def beauty_rows(models: Mapping[str, Runs], counters: Mapping[str, Runs], peers: Mapping[str, Runs]) -> list[Row]:
    """Rows of Amazon Beauty. `models` has "ours" and further variants of it."""
    ours, others = models["ours"], {name: runs for name, runs in models.items() if name != "ours"} | {**counters, **peers}
    rows = _model_rows("beauty", ours, SEQUENTIAL, BEAUTY_LIMITS)
    rows += _training_rows("beauty", ours, must_min=30.0, goal_min=10.0)
    return rows + _rows_of_others("beauty", ours, others, SEQUENTIAL)


def seeds_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean over seeds, by Student's t: what other seeds would change, not what other users would."""
    freedom = len(values) - 1
    half = STUDENT_T[min(freedom, len(STUDENT_T)) - 1] * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    center = float(np.mean(values))
    return center - half, center + half


def paired_interval(ours: Runs, theirs: Runs, metric: str) -> tuple[float, float]:
    """95 % interval of our metric minus theirs, both as means over the seeds, by resampling users; NaN if one side has none."""
    (our_values, users), (their_values, _) = ours.values(metric), theirs.values(metric)
    difference = our_values - their_values
    return user_bootstrap(difference, users) if not np.isnan(difference).all() else (math.nan, math.nan)


def _rows_of_others(prefix: str, ours: Runs, others: Mapping[str, Runs], metrics: Iterable[str]) -> list[Row]:
    """Figures of every other ranker, and the paired intervals of ours minus theirs."""
    rows = []
    for name, theirs in others.items():
        rows += _model_rows(f"{prefix}_{name}", theirs, metrics, {}) + _training_rows(f"{prefix}_{name}", theirs)
        for metric in metrics:
            rows += _ends(f"{prefix}_ours_minus_{name}_{SHORT[metric]}", metric, paired_interval(ours, theirs, metric))
    return rows


def _model_rows(prefix: str, runs: Runs, metrics: Iterable[str], limits: Limits) -> list[Row]:
    """Each metric of a model: its mean over the seeds with the interval over users and, of several seeds, the one over seeds."""
    rows = []
    for metric in metrics:
        name, values = f"{prefix}_{SHORT[metric]}", runs.means(metric)
        if math.isnan(values[0]):
            continue
        must, goal = limits.get(metric, (None, None))
        rows.append(_row(name, runs.mean(metric), metric, must, goal))
        rows += _ends(name, metric, user_bootstrap(*runs.values(metric)))
        if len(values) > 1:
            rows += [_row(f"{name}_seed{seed}", value, metric) for seed, value in enumerate(values)]
            rows.append(Row(metric=f"{name}_std", value=float(np.std(values, ddof=1)), unit=_unit(metric), better="lower"))
            rows += _ends(f"{name}_seeds", metric, seeds_interval(values))
    return rows


def _training_rows(prefix: str, runs: Runs, must_min: float | None = None, goal_min: float | None = None) -> list[Row]:
    """What the training took; no rows for a counter."""
    rows = []
    if runs.train_min is not None:
        rows.append(Row(metric=f"{prefix}_seeds", value=len(runs.seeds), unit="", better="higher"))
        rows.append(
            Row(metric=f"{prefix}_train_min", value=runs.train_min, unit="min", better="lower", must=must_min, goal=goal_min)
        )
    if runs.parameters is not None:
        rows.append(Row(metric=f"{prefix}_parameters", value=runs.parameters, unit="", better="lower"))
    if runs.embedder_share is not None:
        rows.append(Row(metric=f"{prefix}_embedder_share", value=runs.embedder_share, unit="", better="lower"))
    return rows


def _explore_rows(name: str, ours: Runs, theirs: Runs, must: float | None, goal: float) -> list[Row]:
    """Our recall of new items over that of a counter, with its interval; no rows if the counter finds none."""
    (our_values, users), (their_values, _) = ours.values(EXPLORING), theirs.values(EXPLORING)
    ratio, low, high = paired_ratio(our_values, their_values, users)
    if math.isnan(ratio):
        return []
    return [
        Row(metric=name, value=ratio, unit="x", better="higher", must=must, goal=goal),
        Row(metric=f"{name}_low", value=low, unit="x", better="higher"),
        Row(metric=f"{name}_high", value=high, unit="x", better="higher"),
    ]


def _ends(name: str, metric: str, interval: tuple[float, float]) -> list[Row]:
    """Both ends of an interval; no rows if there is none."""
    ends = zip(("low", "high"), interval, strict=True)
    return [_row(f"{name}_{end}", value, metric) for end, value in ends if not math.isnan(value)]


def _row(name: str, value: float, metric: str, must: float | None = None, goal: float | None = None) -> Row:
    better: Literal["higher", "lower"] = "lower" if metric == "set_loss" else "higher"
    return Row(metric=name, value=value, unit=_unit(metric), better=better, must=must, goal=goal)


def _unit(metric: str) -> str:
    return "nats" if metric == "set_loss" else ""
