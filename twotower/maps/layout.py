"""Where each item lies on the map: all places computed, or new items put beside their neighbours on the map of the night before.

M: points, D: width of their vectors, S: points that stay where they were, K: neighbours
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twotower.data.features import Floats
from twotower.maps.item_map import SIDE, Places
from twotower.maps.neighbours import nearest

MAX_PLACED = 0.2  # share of points put beside neighbours from which on all places are computed again
MARGIN = 0.02  # of the side, left free around the points
_BESIDE = 5  # neighbours that a new point is put among
_JITTER = SIDE / 3000  # so that a new point hides none

Bools = npt.NDArray[np.bool_]
Fit = Callable[[Floats, Floats | None], Floats]  # from vectors of length 1 [M, D] and places to begin with [M, 2] to places


@dataclass(frozen=True, slots=True)
class Before:
    """The map of the night before, as far as it is about the points of tonight."""

    places_M2: Floats  # NaN where an item was not on the map
    stays_M: Bools  # items whose vectors are what they were
    num_placed: int  # points put beside their neighbours since all places were computed

    @property
    def known_M(self) -> Bools:
        """The points that were on the map."""
        return ~np.isnan(self.places_M2[:, 0])

    @property
    def num_to_place(self) -> int:
        """Points put beside their neighbours by the end of tonight, unless all places are computed."""
        return self.num_placed + int(np.count_nonzero(~self.stays_M))


@dataclass(frozen=True, slots=True)
class Layout:
    """Places of all points."""

    places_M2: Places
    num_placed: int  # points put beside their neighbours since all places were computed


def lay_out(units_MD: Floats, fit: Fit, before: Before | None = None) -> Layout:
    """Places of all points, the same for the same arguments. Points that stay keep their places, unless too many do not stay."""
    if before is None or not before.known_M.any():
        return Layout(quantised(framed(fit(units_MD, None))), 0)
    if before.num_to_place <= MAX_PLACED * len(units_MD):
        return Layout(quantised(beside(units_MD, before.places_M2, before.stays_M)), before.num_to_place)
    fitted_M2 = fit(units_MD, beside(units_MD, before.places_M2, before.known_M))
    return Layout(quantised(inside(aligned(fitted_M2, before.places_M2, before.known_M))), 0)


def beside(units_MD: Floats, places_M2: Floats, stays_M: Bools) -> Floats:
    """Places of all points: those that stay keep theirs, each other one gets one amid its nearest that stay.

    The middle is the median in x and in y, so that of neighbours in two places it is the larger group that counts.
    """
    result_M2 = places_M2.copy()
    staying, moving = np.flatnonzero(stays_M), np.flatnonzero(~stays_M)
    if len(moving):
        near_QK, _ = nearest(units_MD[moving], units_MD[staying], _BESIDE)
        jitter_Q2 = np.random.default_rng(0).normal(scale=_JITTER, size=(len(moving), 2))
        result_M2[moving] = np.median(places_M2[staying[near_QK]], axis=1) + jitter_Q2
    return result_M2


def framed(places_M2: Floats) -> Floats:
    """The places moved and scaled, the same way in x and y, to fill the map up to its margin."""
    low_2, high_2 = places_M2.min(0), places_M2.max(0)
    scale = SIDE * (1 - 2 * MARGIN) / max(float((high_2 - low_2).max()), 1e-9)
    return np.asarray((places_M2 - (low_2 + high_2) / 2) * scale + SIDE / 2, np.float32)


def inside(places_M2: Floats) -> Floats:
    """The places as they are, or shrunk around the middle of the map where some lie outside."""
    reach = float(np.abs(places_M2 - SIDE / 2).max())
    return np.asarray((places_M2 - SIDE / 2) * min(1.0, SIDE * (0.5 - MARGIN) / max(reach, 1e-9)) + SIDE / 2, np.float32)


def aligned(places_M2: Floats, before_M2: Floats, known_M: Bools) -> Floats:
    """The places turned, mirrored, scaled and moved as a whole so that known points come near where they were (Umeyama 1991)."""
    now_S2, then_S2 = places_M2[known_M].astype(np.float64), before_M2[known_M].astype(np.float64)
    now_2, then_2 = now_S2.mean(0), then_S2.mean(0)
    left_22, stretch_2, right_22 = np.linalg.svd((now_S2 - now_2).T @ (then_S2 - then_2))
    scale = float(stretch_2.sum()) / max(float(((now_S2 - now_2) ** 2).sum()), 1e-9)
    return np.asarray((places_M2 - now_2) @ (left_22 @ right_22) * scale + then_2, np.float32)


def quantised(places_M2: Floats) -> Places:
    """The places as whole numbers within the map."""
    return np.clip(np.rint(places_M2), 0, SIDE - 1).astype(np.uint16)
