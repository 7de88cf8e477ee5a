"""Recent popularity and its trend, from decayed counts of events. They are appended to every item vector as dimensions of their
own, so that they are refreshed nightly without embedding an item again.

N: items, P: half-lives, E: events
"""

import numpy as np
import numpy.typing as npt

from twotower.data.features import DAY_MS, Floats, Ints

SMOOTHING = 0.1  # pseudo-events per item: an item never bought keeps a finite log popularity
SHRINKAGE = 3.0  # pseudo-events per item that pull a trend to 1

Counts = npt.NDArray[np.float64]


def decayed_counts(
    item_rows_E: Ints, times_ms_E: Ints, as_of_ms: int, half_lives_days: tuple[float, ...], num_items: int
) -> Counts:
    """Counts [P, N] in which an event of age a weighs 2^-(a / half-life). No event may be later than `as_of_ms`."""
    age_days = (as_of_ms - times_ms_E) / DAY_MS
    return np.stack([np.bincount(item_rows_E, 0.5 ** (age_days / h), num_items) for h in half_lives_days])


def fade(counts_PN: Counts, elapsed_ms: int, half_lives_days: tuple[float, ...]) -> Counts:
    """The counts as of `elapsed_ms` later."""
    weights: Counts = 0.5 ** (elapsed_ms / DAY_MS / np.array(half_lives_days))[:, None]
    return counts_PN * weights


def log_popularity(counts_PN: Counts) -> Floats:
    """Log popularity [P, N]: the log of the smoothed share by the first half-life, then the log of the trend by each other one.

    A trend is how many times as often an item is bought as its share predicts, shrunk to 1 where there are few events.
    """
    smoothed_N = counts_PN[0] + SMOOTHING
    share_N = smoothed_N / smoothed_N.sum()
    others_PN = counts_PN[1:]
    expected_PN = share_N * others_PN.sum(1, keepdims=True)
    trends_PN = (others_PN + SHRINKAGE) / (expected_PN + SHRINKAGE)
    values: Floats = np.log(np.concatenate([share_N[None], trends_PN])).astype(np.float32)
    return values
