"""How the compute-optimal sizes grow with the budget: exponents of N* and D*, by least squares in logarithms.

C: budgets, S: bootstrap draws
"""

import numpy as np
import numpy.typing as npt

from training.laws.resampling import student_t
from twotower.planning.law import Interval, PowerLaw

Array = npt.NDArray[np.float64]

MIN_BUDGETS = 3


def power_law(flops_C: Array, size_C: Array) -> PowerLaw:
    """Ordinary least squares, with Student's t intervals of C - 2 degrees of freedom. ValueError for fewer than three budgets.

    These intervals also hold what a power law misses, such as a curved frontier; those of the bootstrap hold the noise of runs
    alone.
    """
    if (num := len(flops_C)) < MIN_BUDGETS:
        raise ValueError(f"{num} budgets with a bottom: exponents need {MIN_BUDGETS}, so run {MIN_BUDGETS - num} more")
    log_C = np.log10(flops_C)
    x_C, y_C = log_C - log_C.mean(), np.log10(size_C)
    exponent, middle = float(x_C @ y_C / (x_C @ x_C)), float(y_C.mean())
    noise = np.sqrt(((y_C - middle - exponent * x_C) ** 2).sum() / (num - 2))
    t = student_t(num - 2)
    error, error_of_middle = t * noise / np.sqrt(x_C @ x_C), t * noise / np.sqrt(num)
    return PowerLaw(
        anchor=float(10 ** log_C.mean()),
        at_anchor=Interval(10**middle, float(10 ** (middle - error_of_middle)), float(10 ** (middle + error_of_middle))),
        exponent=Interval(exponent, float(exponent - error), float(exponent + error)),
    )


def standard_error(flops_C: Array, size_C: Array) -> float:
    """The standard error of the exponent."""
    law = power_law(flops_C, size_C)
    assert law.exponent.high is not None
    return (law.exponent.high - law.exponent.value) / student_t(len(flops_C) - 2)


def exponents(flops_C: Array, size_SC: Array) -> Array:
    """The exponent of each bootstrap draw [S]; budgets without a bottom in a draw (NaN) are left out of it."""
    there_SC = np.isfinite(size_SC)
    x_SC = np.where(there_SC, np.log10(flops_C), np.nan)
    y_SC = np.log10(np.where(there_SC, size_SC, np.nan))
    enough_S = there_SC.sum(1) >= 2
    slopes_S = np.full(len(size_SC), np.nan)
    x, y = x_SC[enough_S], y_SC[enough_S]
    x, y = x - np.nanmean(x, 1, keepdims=True), y - np.nanmean(y, 1, keepdims=True)
    slopes_S[enough_S] = np.nansum(x * y, 1) / np.nansum(x * x, 1)
    return slopes_S
