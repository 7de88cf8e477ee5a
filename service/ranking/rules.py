"""Checks a request against a release before the search, and builds the answer after it. Runs on the engine's thread.

N: items
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from service.api.errors import ApiError
from service.api.schemas import Explanation, Recommended, RecommendRequest
from service.ranking.allowed import allowed_items
from service.ranking.arrangement import Found, Search, arrange, searches
from service.ranking.explain import explain
from service.ranking.pages import Page, open_page
from service.ranking.promotions import Pick
from service.ranking.user_request import ModelInput, UserRequest, read_input
from service.release.loaded import LoadedRelease
from twotower.data.json_values import json_rows


@dataclass(frozen=True, slots=True)
class Ranking:
    """The items of an answer, and facts about how they were ranked."""

    items: list[Recommended]
    events_used: int
    events_ignored: int
    missing_item_ids: list[str]
    degraded: list[str]
    next_page_token: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked request, translated to the rows of a release."""

    request: RecommendRequest
    page: Page
    input: ModelInput
    searches: list[Search]
    degraded: list[str]


def prepare(release: LoadedRelease, user_request: UserRequest[RecommendRequest]) -> Prepared:
    """Check and translate a request; ApiError that names the field that cannot be used.

    All pages of an answer are ranked for the moment of the first page.
    """
    request = user_request.request
    check_metadata(release, request.include_metadata)
    page = open_page(release, request, user_request.now_ms)
    model_input = read_input(release, user_request, page.now_ms)
    allowed_N, degraded = allowed_items(release, request, model_input.history.items)
    return Prepared(request, page, model_input, searches(release, request, page, allowed_N), [*model_input.degraded, *degraded])


def build_ranking(release: LoadedRelease, prepared: Prepared, found: Sequence[Found] | None) -> Ranking:
    """The answer, from the results of the searches; `found` is None for a request that is only checked."""
    request, model_input = prepared.request, prepared.input
    items: list[Recommended] = []
    token, degraded = None, prepared.degraded
    if found is not None:
        arranged = arrange(release, request, prepared.page, prepared.searches, found)
        token, degraded = arranged.next_page_token, degraded + arranged.degraded
        rows = [pick.row for pick in arranged.picks]
        explanations = explain(release, model_input, rows) if request.explain else None
        items = present(release, arranged.picks, request.include_metadata, explanations)
    return Ranking(
        items=items,
        events_used=len(model_input.known_events),
        events_ignored=model_input.num_ignored,
        missing_item_ids=model_input.missing(release, request.candidate_item_ids or ()),
        degraded=degraded,
        next_page_token=token,
    )


def check_metadata(release: LoadedRelease, names: Sequence[str]) -> None:
    """ApiError for a name that is not a feature of items."""
    if unknown := [n for n in names if n not in release.items.column_names]:
        message = f"items have no {unknown[0]!r}; they have {', '.join(release.items.column_names)}"
        raise ApiError("invalid_request", message, "include_metadata")


def present(
    release: LoadedRelease, picks: Sequence[Pick], include: Sequence[str], explanations: Sequence[list[Explanation]] | None = None
) -> list[Recommended]:
    """The items of an answer as they are sent to the client, with the features named in `include`."""
    metadata: list[dict[str, Any] | None] = [None] * len(picks)
    reasons: Sequence[list[Explanation] | None] = [None] * len(picks) if explanations is None else explanations
    if include:
        rows = pa.array([p.row for p in picks], pa.int64())
        metadata = [*json_rows(release.items.select(list(dict.fromkeys(include))).take(rows))]
    return [
        Recommended(
            item_id=release.item_ids[pick.row],
            score=pick.score,
            source=pick.source,
            promotion=pick.promotion,
            metadata=extra,
            reasons=explained,
        )
        for pick, extra, explained in zip(picks, metadata, reasons, strict=True)
    ]
