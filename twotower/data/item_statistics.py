"""Compact statistics of a user's past items over the whole history, from which a repeat purchase is predicted.

Half of the next events in retail are of past items, and a dot product with what the last 256 events say cannot copy them.
These few numbers for each user and item are updated with every event. The repeat score reads them and the item's vector.

M: past items of one user
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twotower.data.features import DAY_MS, Floats, Ints, Rows

HALF_LIVES_DAYS = (7.0, 30.0, 90.0)
NUM_PAST_FEATURES = 6
NUM_ACTIVITY_FEATURES = 6


@dataclass(frozen=True, slots=True)
class ItemStatistics:
    """One row per past item. `decayed_M3` counts each event as 2^-(age / half-life), with its age at `last_ms_M`."""

    item_rows_M: Ints
    count_M: Ints
    first_ms_M: Ints
    last_ms_M: Ints
    decayed_M3: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.item_rows_M)

    @staticmethod
    def empty() -> "ItemStatistics":
        """Statistics of a user without history."""
        none = np.zeros(0, np.int64)
        return ItemStatistics(none, none, none, none, np.zeros((0, len(HALF_LIVES_DAYS))))


def item_statistics(item_rows: Ints, times_ms: Ints) -> ItemStatistics:
    """Statistics of a history given as one row and one time per event, in any order."""
    return grouped_statistics(np.zeros(len(item_rows), np.int64), item_rows, times_ms)[1]


def grouped_statistics(owner_E: Ints, item_rows_E: Ints | Rows, times_ms_E: Ints) -> tuple[Ints, ItemStatistics]:
    """Statistics of several histories at once: the owner of each row, and one row per past item, sorted by owner and item."""
    if not len(owner_E):
        return np.zeros(0, np.int64), ItemStatistics.empty()
    keys = owner_E.astype(np.int64) << 32 | item_rows_E
    order = np.argsort(keys, kind="stable")
    keys, times = keys[order], times_ms_E[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    count = np.diff(starts, append=len(keys))
    first, last = np.minimum.reduceat(times, starts), np.maximum.reduceat(times, starts)
    age_days = (np.repeat(last, count) - times) / DAY_MS
    decayed = np.stack([np.add.reduceat(0.5 ** (age_days / h), starts) for h in HALF_LIVES_DAYS], 1)
    return keys[starts] >> 32, ItemStatistics(keys[starts] & 0xFFFFFFFF, count, first, last, decayed)


def add_event(
    count: int, first_ms: int, last_ms: int, decayed: tuple[float, float, float], time_ms: int
) -> tuple[int, int, int, tuple[float, float, float]]:
    """The statistics of one item after one more event at `time_ms`, which may lie before the last one.

    Equal to `item_statistics` over the whole history; history stores call this on every append.
    """
    newest = max(last_ms, time_ms)
    grown = [
        w * 0.5 ** ((newest - last_ms) / DAY_MS / h) + 0.5 ** ((newest - time_ms) / DAY_MS / h)
        for w, h in zip(decayed, HALF_LIVES_DAYS, strict=True)
    ]
    return count + 1, min(first_ms, time_ms), newest, (grown[0], grown[1], grown[2])


def past_features(statistics: ItemStatistics, now_ms: int | Ints) -> Floats:
    """Features of each past item at the time of the request, [M, 6].

    Log count; log decayed counts (90, 30, 7 days); log days since the last event; log of these days over the usual gap.
    """
    since_days = np.maximum(now_ms - statistics.last_ms_M, 0) / DAY_MS
    fade = 0.5 ** (since_days[:, None] / np.array(HALF_LIVES_DAYS))
    decayed = np.log(statistics.decayed_M3 * fade + 1e-3)
    span_days = (statistics.last_ms_M - statistics.first_ms_M) / DAY_MS
    usual_gap = span_days / np.maximum(statistics.count_M - 1, 1)
    overdue = np.where(statistics.count_M > 1, since_days / np.maximum(usual_gap, 0.5), 0.0)
    return np.stack(
        [np.log1p(statistics.count_M), decayed[:, 2], decayed[:, 1], decayed[:, 0], np.log1p(since_days), np.log1p(overdue)], 1
    ).astype(np.float32)


def activity_features(statistics: ItemStatistics, request_M: Ints, now_ms_Q: Ints) -> Floats:
    """Activity of the user of each request, summed over past items, [Q, 6]. `request_M` is the request of each row.

    Log events; log past items; log days since the first event; log decayed events (7, 30, 90 days).
    """
    num_requests = len(now_ms_Q)
    since_days = np.maximum(now_ms_Q[request_M] - statistics.last_ms_M, 0) / DAY_MS
    fade = 0.5 ** (since_days[:, None] / np.array(HALF_LIVES_DAYS))
    first_ms_Q = now_ms_Q.copy()
    np.minimum.at(first_ms_Q, request_M, statistics.first_ms_M)
    summed = (statistics.count_M, np.ones(len(request_M)), *(statistics.decayed_M3 * fade).T)
    events, items, *decayed = (np.bincount(request_M, weights, num_requests) for weights in summed)
    return (np.log1p(np.stack([events, items, (now_ms_Q - first_ms_Q) / DAY_MS, *decayed], 1)) / 5).astype(np.float32)
