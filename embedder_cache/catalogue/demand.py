"""Demand by item as a distribution, and how far two of them are apart.

N: items, U: items of either side
"""

import numpy as np
import numpy.typing as npt

from twotower.data.features import Floats, Ints

Shares = npt.NDArray[np.float64]


def demand(log_popularity_N: Floats) -> Shares:
    """Shares of demand that sum to 1, or all 0 when no item stands above another.

    Popularity is smoothed, so that an item without events has some; that much is taken off every item again, lest a long
    tail that nobody asked for look like demand.
    """
    shares_N = np.exp(log_popularity_N.astype(np.float64))
    above_N = shares_N - shares_N.min()
    demand_N: Shares = above_N / (above_N.sum() or 1.0)
    return demand_N


def over_either(before_N: Shares, after_N: Shares, rows_N: Ints) -> tuple[Shares, Shares, Ints]:
    """Both over the older side's items and then the added ones, 0 for an item that a side lacks; and their newer rows, or -1.

    `rows_N` are the newer rows of the older items, -1 for those that are gone.
    """
    common = rows_N >= 0
    is_added = np.ones(len(after_N), bool)
    is_added[rows_N[common]] = False
    newer_U = np.concatenate([rows_N, np.flatnonzero(is_added)])
    before_U = np.concatenate([before_N, np.zeros(len(newer_U) - len(before_N))])
    return before_U, np.where(newer_U >= 0, after_N[newer_U], 0.0), newer_U


def divergence(p_U: Shares, q_U: Shares) -> float:
    """Jensen-Shannon divergence in bits (Lin 1991): 0 for equal distributions, 1 for two that share no item."""
    between = entropy(0.5 * (p_U + q_U)) - 0.5 * (entropy(p_U) + entropy(q_U))
    return min(max(between, 0.0), 1.0)


def entropy(p_U: Shares) -> float:
    """In bits."""
    some = p_U[p_U > 0]
    return float(-(some * np.log2(some)).sum())
