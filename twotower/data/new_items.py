"""Popularity of new items. Their counts say nothing yet, so the bought items most like them say what to expect.

A: new items, N: items, B: bought items that they are compared with, K: neighbours, D: item vector width
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twotower.data.features import Floats, Ints

NEIGHBOURS = 5
MAX_COMPARED = 2**16  # bought items, evenly spaced among more, so that a new item costs milliseconds in any catalogue
BLOCK_SCORES = 2**24  # cosines in memory at a time: 64 MiB


@dataclass(frozen=True, slots=True)
class BoughtItems:
    """Bought items of a catalogue with which new ones are compared: by the cosine of vectors, measured from their mean."""

    rows_B: Ints  # in the catalogue
    log_popularity_B: Floats
    centre_D: Floats
    directions_BD: Floats  # of length one

    @staticmethod
    def of(vectors_ND: Floats, log_popularity_N: Floats, rows: Ints) -> "BoughtItems":
        """Those of the given catalogue rows that are above the lowest popularity, which is that of an item nobody bought."""
        bought = rows[log_popularity_N[rows] > log_popularity_N.min(initial=np.inf)]
        rows_B = bought[:: max(1, math.ceil(len(bought) / MAX_COMPARED))]
        vectors_BD = np.asarray(vectors_ND[rows_B])
        centre_D = vectors_BD.sum(0) / max(len(rows_B), 1)
        return BoughtItems(rows_B, log_popularity_N[rows_B], centre_D, _directions(vectors_BD - centre_D))

    def nearest(self, vectors_AD: Floats) -> Ints:
        """The most alike bought items of each new one, [A, K], as places among the B. K is 0 when nothing was bought."""
        num_neighbours = min(NEIGHBOURS, len(self.rows_B))
        places_AK = np.empty((len(vectors_AD), num_neighbours), np.int64)
        if not num_neighbours:
            return places_AK
        size = max(1, BLOCK_SCORES // len(self.rows_B))
        for start in range(0, len(vectors_AD), size):
            cosines_aB = _directions(vectors_AD[start : start + size] - self.centre_D) @ self.directions_BD.T
            places_AK[start : start + size] = np.argpartition(-cosines_aB, num_neighbours - 1, 1)[:, :num_neighbours]
        return np.sort(places_AK, 1)


def with_expected(log_popularity_A: Floats, neighbours_AK: Floats, age_days_A: npt.ArrayLike, half_life_days: float) -> Floats:
    """Log popularity [A] of new items: their own share of the events plus the share that is expected of them.

    That is the squared mean root of their neighbours' shares, of which `neighbours_AK` has the logs; the mean itself would follow
    the one neighbour that sells most. It fades with the half-life from an item's first event on, because then its own events
    tell.
    """
    if not neighbours_AK.shape[1]:
        return log_popularity_A
    expected_A = 2 * np.log(np.exp(neighbours_AK.astype(np.float64) / 2).mean(1))
    fading_A = math.log(2) * np.asarray(age_days_A) / half_life_days
    return np.asarray(np.logaddexp(log_popularity_A, expected_A - fading_A), np.float32)


def _directions(rows_ND: Floats) -> Floats:
    return np.asarray(rows_ND / np.maximum(np.linalg.norm(rows_ND, axis=1, keepdims=True), 1e-12), np.float32)
