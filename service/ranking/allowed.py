"""Which items a request allows: filters, exclude lists and candidate lists.

N: items
"""

from collections.abc import Mapping, Sequence

import numpy as np

from service.api.errors import ApiError
from service.api.schemas import RecommendRequest
from service.histories.history import PastItem
from service.release.filters import InvalidFilter, Mask
from service.release.loaded import LoadedRelease
from twotower.data.features import Ints


def matching(release: LoadedRelease, expression: str, field: str) -> Mask:
    """Which items match, [N]; ApiError names the field that the expression stands in."""
    try:
        return release.filters.mask(expression)
    except InvalidFilter as error:
        raise ApiError("invalid_request", f"{field}: {error}", field) from error


FILTER_MATCHES_NOTHING = "filter_matches_nothing"


def allowed_items(release: LoadedRelease, asked: RecommendRequest, past: Mapping[str, PastItem]) -> tuple[Mask | None, list[str]]:
    """Which items may be returned, [N] or None for all, and notes for `degraded`."""
    types, candidates = frozenset(asked.exclude_event_types), asked.candidate_item_ids
    seen = [i for i, o in past.items() if asked.exclude_seen or o.event_types & types] if asked.exclude_seen or types else []
    if asked.filter is None and candidates is None and not asked.exclude_item_ids and not seen:
        return None, []
    mask, notes = rules(release, asked.filter, asked.exclude_item_ids)
    if candidates is not None:
        mask &= mask_of(release, known_rows(release, candidates))
    mask[known_rows(release, seen)] = False
    return mask, notes


def rules(release: LoadedRelease, expression: str | None, exclude_item_ids: Sequence[str]) -> tuple[Mask, list[str]]:
    """Filter and exclude list as a fresh mask [N], and notes for `degraded`."""
    notes: list[str] = []
    mask = release.listed()
    if expression is not None:
        mask &= matching(release, expression, "filter")
        if not mask.any():
            notes.append(FILTER_MATCHES_NOTHING)
    mask[known_rows(release, exclude_item_ids)] = False
    return mask, notes


def mask_of(release: LoadedRelease, rows: Sequence[int] | Ints) -> Mask:
    """These rows and no others, [N]."""
    mask = np.zeros(len(release), bool)
    mask[rows] = True
    return mask


def known_rows(release: LoadedRelease, item_ids: Sequence[str]) -> list[int]:
    """Rows of the ids that the catalogue knows."""
    return [release.rows[i] for i in item_ids if i in release.rows]
