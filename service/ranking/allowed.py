"""The items that a request allows: filters, exclude lists and candidate lists.

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
    """The items that match a filter, [N]; ApiError that names `field`, in which the filter was given."""
    try:
        return release.filters.mask(expression)
    except InvalidFilter as error:
        raise ApiError("invalid_request", f"{field}: {error}", field) from error


FILTER_MATCHES_NOTHING = "filter_matches_nothing"


def allowed_items(
    release: LoadedRelease, request: RecommendRequest, past: Mapping[str, PastItem]
) -> tuple[Mask | None, list[str]]:
    """The items that may be returned, [N] or None for all, and notes for `degraded`."""
    types, candidates = frozenset(request.exclude_event_types), request.candidate_item_ids
    needs_past = request.exclude_seen or types
    excluded = [i for i, p in past.items() if request.exclude_seen or p.event_types & types] if needs_past else []
    if request.filter is None and candidates is None and not request.exclude_item_ids and not excluded:
        return None, []
    mask, notes = rules(release, request.filter, request.exclude_item_ids)
    if candidates is not None:
        mask &= mask_of(release, known_rows(release, candidates))
    mask[known_rows(release, excluded)] = False
    return mask, notes


def rules(release: LoadedRelease, expression: str | None, exclude_item_ids: Sequence[str]) -> tuple[Mask, list[str]]:
    """A new mask [N] of the items that a filter and an exclude list allow, and notes for `degraded`."""
    notes: list[str] = []
    mask = release.listed()
    if expression is not None:
        mask &= matching(release, expression, "filter")
        if not mask.any():
            notes.append(FILTER_MATCHES_NOTHING)
    mask[known_rows(release, exclude_item_ids)] = False
    return mask, notes


def mask_of(release: LoadedRelease, rows: Sequence[int] | Ints) -> Mask:
    """A mask [N] of these rows only."""
    mask = np.zeros(len(release), bool)
    mask[rows] = True
    return mask


def known_rows(release: LoadedRelease, item_ids: Sequence[str]) -> list[int]:
    """Rows of the ids that the catalogue knows."""
    return [release.rows[i] for i in item_ids if i in release.rows]
