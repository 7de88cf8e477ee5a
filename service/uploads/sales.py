"""Popularity from the sales that a catalogue states itself, in the form in which the nightly job counts it from events.

N: items, P: half-lives, B: the periods that sales are given for
"""

import math

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower.data.features import Floats
from twotower.data.popularity import log_popularity

PERIOD_DAYS, NUM_PERIODS = 30, 11  # sales of the last 30, 60, ... 330 days; then those of all time

Counts = npt.NDArray[np.float64]


def popularity_of(rows: pa.Table, half_lives_days: tuple[float, ...]) -> Floats:
    """Log popularity [N, P], from the sales of the last 330 days, or else from `frequency` as if it were spread over them.

    Within a period sales count as evenly spread. Without either an item counts as never sold.
    """
    sales_NB = sales_by_period(rows)
    counts_PN = np.stack([sales_NB @ weights_of(half_life) for half_life in half_lives_days])
    return np.ascontiguousarray(log_popularity(counts_PN).T)


def sales_by_period(rows: pa.Table) -> Counts:
    """Sales [N, B] of each period of 30 days, the latest first."""
    lists, totals = rows.column("sales_since").to_pylist(), rows.column("frequency").to_pylist()
    sales_NB = np.zeros((len(rows), NUM_PERIODS))
    for row, (since, total) in enumerate(zip(lists, totals, strict=True)):
        until_B = np.array([value or 0 for value in since or ()][:NUM_PERIODS], float)
        if until_B.any():
            until_B = np.pad(until_B, (0, NUM_PERIODS - len(until_B)), mode="edge")
            sales_NB[row] = np.maximum(np.diff(until_B, prepend=0.0), 0.0)
        else:
            sales_NB[row] = max(total or 0, 0) / NUM_PERIODS
    return sales_NB


def weights_of(half_life_days: float) -> Counts:
    """Mean weight [B] of an event of each period: 2^-(age / half-life), averaged over the ages of the period."""
    edges_days = np.arange(NUM_PERIODS + 1) * PERIOD_DAYS
    left = 0.5 ** (edges_days / half_life_days)
    weights: Counts = (left[:-1] - left[1:]) * half_life_days / (PERIOD_DAYS * math.log(2))
    return weights
