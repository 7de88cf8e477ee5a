"""Demand by item as a distribution, and how far two of them are apart.

N: items, U: items of either side
"""

import numpy as np
import numpy.typing as npt

from twotower.data.features import Floats, Ints

Shares = npt.NDArray[np.float64]


def demand(log_popularity_N: Floats) -> Shares:
    """Shares of demand that sum to 1, or all 0 when all items are equally popular.

    Popularity is smoothed, which gives an item without events a small share. That share is subtracted from every item, so that
    many items without events do not count as demand.
    """
    shares_N = np.exp(log_popularity_N.astype(np.float64))
    above_N = shares_N - shares_N.min()
    demand_N: Shares = above_N / (above_N.sum() or 1.0)
    return demand_N


def over_either(before_N: Shares, after_N: Shares, rows_N: Ints) -> tuple[Shares, Shares, Ints]:
    """Both shares over the older items followed by the added ones, 0 where a side lacks the item, and the newer row or -1.

    `rows_N` maps older rows to newer ones, -1 for removed items.
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
    """Shannon entropy of the shares, in bits."""
    some = p_U[p_U > 0]
    return float(-(some * np.log2(some)).sum())
