"""Whether metrics agree: Spearman's rank correlation of metrics over the runs of a budget, with a bootstrap interval.

A loss falls where a ranking improves, so -1 between loss and recall is agreement. Few runs give wide intervals, and a sign is
only said where the interval does not hold 0.

R: runs, M: metrics, S: bootstrap draws
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from training.laws.resampling import CONFIDENCE, draw_weights
from training.laws.selection import by_budget, higher_is_better
from training.sweeps.ledger import Run
from twotower.metrics.rank_correlation import spearman
from twotower.planning.law import Interval

Array = npt.NDArray[np.float64]

MIN_RUNS = 4
MIN_RUNS_OF_A_SIGN = 5  # of fewer, chance alone gives a perfect order more than once in twenty


class Agreement(NamedTuple):
    """The rank correlations over some runs."""

    label: str
    flops: float
    num_runs: int
    metrics: list[str]
    correlation: Array  # [M, M]; NaN for a metric that does not change
    low: Array
    high: Array

    def between(self, one: str, other: str) -> Interval:
        """A correlation and its interval."""
        place = self.metrics.index(one), self.metrics.index(other)
        ends = [None if np.isnan(end[place]) else float(end[place]) for end in (self.low, self.high)]
        return Interval(float(self.correlation[place]), ends[0], ends[1])

    def says(self, one: str, other: str) -> Literal["aligned", "misaligned", "undecided"]:
        """Whether runs that are better by one metric are better by the other."""
        within = self.between(one, other)
        if self.num_runs < MIN_RUNS_OF_A_SIGN or within.low is None or within.high is None or within.low <= 0 <= within.high:
            return "undecided"
        same_direction = higher_is_better(one) == higher_is_better(other)
        return "aligned" if (within.low > 0) == same_direction else "misaligned"


def agreement(label: str, runs: Sequence[Run], metrics: Sequence[str]) -> Agreement:
    """Rank correlations over runs. ValueError with what to run next for fewer than four."""
    if len(runs) < MIN_RUNS:
        raise ValueError(f"{label}: {len(runs)} runs, and a rank correlation needs {MIN_RUNS}: run {MIN_RUNS - len(runs)} more")
    values_RM = np.array([[run.metrics[name] for name in metrics] for run in runs], float)
    low, high = bootstrap_interval(values_RM)
    return Agreement(label, runs[0].flops, len(runs), list(metrics), spearman(values_RM), low, high)


def agreements_by_budget(runs: Sequence[Run], metrics: Sequence[str]) -> list[Agreement]:
    """Rank correlations for every budget that has enough runs."""
    groups = {flops: here for flops, here in by_budget(runs).items() if len(here) >= MIN_RUNS}
    return [agreement(f"{flops:.3g} FLOPs", here, metrics) for flops, here in groups.items()]


def bootstrap_interval(values_RM: Array) -> tuple[Array, Array]:
    """Percentile intervals [M, M] of all rank correlations. Draws in which a metric does not change are left out."""
    num_runs = len(values_RM)
    counts_SR = draw_weights(np.zeros(num_runs)).astype(int)
    drawn_SR = np.array([np.repeat(np.arange(num_runs), counts) for counts in counts_SR])
    ranks_SRM = stats.rankdata(values_RM[drawn_SR], axis=1)
    centred = ranks_SRM - ranks_SRM.mean(1, keepdims=True)
    scale_SM = np.sqrt((centred**2).sum(1))
    scale_SM[scale_SM == 0] = np.nan
    unit = centred / scale_SM[:, None, :]
    correlation_SMM = np.clip(unit.transpose(0, 2, 1) @ unit, -1, 1)
    known = np.isfinite(correlation_SMM).any(0)
    filled = np.where(known, correlation_SMM, 0.0)  # so that a metric that never changes warns nobody
    low, high = np.nanquantile(filled, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2), axis=0)
    return np.where(known, low, np.nan), np.where(known, high, np.nan)
