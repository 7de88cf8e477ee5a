"""Spearman's rank correlation.

R: observations, M: variables
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def spearman(values_RM: Array) -> Array:
    """Rank correlation [M, M] between variables over observations; NaN for a constant variable."""
    ranks_RM = np.stack([mean_ranks(column) for column in values_RM.T], axis=1)
    centred = ranks_RM - ranks_RM.mean(0)
    scales = np.sqrt((centred**2).sum(0))
    scales[scales == 0] = np.nan
    unit = centred / scales
    correlation: Array = unit.T @ unit
    return correlation


def mean_ranks(values_R: Array) -> Array:
    """Ranks of the values, 1 for the smallest. Equal values share their mean rank."""
    _, place, counts = np.unique(values_R, return_inverse=True, return_counts=True)
    ranks: Array = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks
