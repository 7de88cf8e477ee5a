"""The bootstrap over runs, and intervals from it.

A draw is a row of weights: how often it takes each run. Runs are drawn within their budget, so that every draw has all budgets.
S: draws, R: runs
"""

import numpy as np
import numpy.typing as npt
from scipy import stats

from twotower.planning.law import Interval

Array = npt.NDArray[np.float64]

CONFIDENCE = 0.95
DRAWS = 1000


def draw_weights(stratum_R: npt.ArrayLike, num_draws: int = DRAWS, seed: int = 0) -> Array:
    """How often each draw takes each run [S, R]: as many runs of each stratum as it has, with repetition."""
    strata, place_R, counts = np.unique(np.asarray(stratum_R), return_inverse=True, return_counts=True)
    rng = np.random.default_rng(seed)
    weights_SR = np.empty((num_draws, len(place_R)))
    for number in range(len(strata)):
        size = counts[number]
        weights_SR[:, place_R == number] = rng.multinomial(size, np.full(size, 1 / size), num_draws)
    return weights_SR


def expanded_percentiles(value: float, draws_S: Array, num_runs: int, num_fitted: int) -> Interval:
    """The expanded percentile interval (Hesterberg 2015): percentiles are moved outwards as Student's t is wider than the normal
    distribution and as residuals are smaller than errors. Draws that are not finite count as beyond both ends.
    """
    left = num_runs - num_fitted
    if left < 1 or not len(draws_S):
        return Interval(float(value), None, None)
    outer = stats.norm.cdf(student_t(left) * np.sqrt(num_runs / left))
    low = np.quantile(np.nan_to_num(draws_S, nan=-np.inf, neginf=-np.inf, posinf=np.inf), 1 - outer, method="lower")
    high = np.quantile(np.nan_to_num(draws_S, nan=np.inf, neginf=-np.inf, posinf=np.inf), outer, method="higher")
    return Interval(float(value), bound(low), bound(high))


def percentiles(value: float, draws_S: Array) -> Interval:
    """The percentile interval, for statistics whose draws spread enough already. Draws that are NaN are left out."""
    there = draws_S[np.isfinite(draws_S)]
    if not len(there):
        return Interval(float(value), None, None)
    low, high = np.quantile(there, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Interval(float(value), float(low), float(high))


def student_t(degrees_of_freedom: int) -> float:
    """The half width of a 95 % interval, in standard errors."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees_of_freedom))


def bound(end: float) -> float | None:
    """An end of an interval; None for one that is not finite."""
    return float(end) if np.isfinite(end) else None
