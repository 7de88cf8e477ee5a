"""The rules of a request: what may be answered, and the answer made of what was found. All of it on the engine's thread.

N: items
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from service.api.errors import ApiError
from service.api.schemas import Reason, Recommended, RecommendRequest
from service.histories.history import StoredEvent, UserHistory
from service.histories.intake import merge_inline
from service.ranking.allowed import allowed_items
from service.ranking.arrangement import Found, Search, arrange, searches
from service.ranking.explain import explain
from service.ranking.pages import Page, open_page
from service.ranking.promotions import Pick
from service.ranking.user_request import ask_model, read_user
from service.release.loaded import LoadedRelease


@dataclass(frozen=True, slots=True)
class Ranking:
    """An answer and what it stands on."""

    items: list[Recommended]
    events_used: int
    events_ignored: int
    missing_item_ids: list[str]
    degraded: list[str]
    next_page_token: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that was checked, in the release's terms."""

    asked: RecommendRequest
    stored: UserHistory
    page: Page
    history: UserHistory
    known: tuple[StoredEvent, ...]  # events of the window whose items the release has
    searches: list[Search]
    degraded: list[str]

    @property
    def now_ms(self) -> int:
        """The moment it is about: that of the first page."""
        return self.page.now_ms


def prepare(release: LoadedRelease, asked: RecommendRequest, stored: UserHistory, now_ms: int) -> Prepared:
    """What is asked for a user at a moment; ApiError names the field that cannot be used."""
    check_metadata(release, asked.include_metadata)
    page = open_page(release, asked, now_ms)
    history = merge_inline(stored, asked)
    known = tuple(e for e in history.window if e.item_id in release.rows)
    allowed_N, degraded = allowed_items(release, asked, history.items)
    return Prepared(asked, stored, page, history, known, searches(release, asked, page, allowed_N), degraded)


def finish(release: LoadedRelease, one: Prepared, found: Sequence[Found] | None) -> Ranking:
    """The answer made of what its searches found; None when it was only to be checked."""
    asked, window = one.asked, one.history.window
    items: list[Recommended] = []
    token, degraded = None, one.degraded
    if found is not None:
        arranged = arrange(release, asked, one.page, one.searches, found)
        token, degraded = arranged.next_page_token, degraded + arranged.degraded
        reasons = explained(release, one, [pick.row for pick in arranged.picks]) if asked.explain else None
        items = present(release, arranged.picks, asked.include_metadata, reasons)
    named = [e.item_id for e in window if e.item_id] if len(one.known) < len(window) else []
    named += asked.candidate_item_ids or ()
    return Ranking(
        items=items,
        events_used=len(one.known),
        events_ignored=len(window) - len(one.known),
        missing_item_ids=[i for i in dict.fromkeys(named) if i not in release.rows],
        degraded=degraded,
        next_page_token=token,
    )


def explained(release: LoadedRelease, one: Prepared, rows: Sequence[int]) -> list[list[Reason]]:
    """Reasons for each row."""
    user = read_user(release, one.asked, one.stored, one.now_ms)
    return explain(release, user.request, user.past, rows, partial(ask_model, release))


def check_metadata(release: LoadedRelease, names: Sequence[str]) -> None:
    """ApiError for metadata that items do not have."""
    if unknown := [n for n in names if n not in release.items.column_names]:
        message = f"items have no {unknown[0]!r}; they have {', '.join(release.items.column_names)}"
        raise ApiError("invalid_request", message, "include_metadata")


def present(
    release: LoadedRelease, picks: Sequence[Pick], include: Sequence[str], reasons: Sequence[list[Reason]] | None = None
) -> list[Recommended]:
    """The places of an answer as the client sees them."""
    metadata: list[dict[str, Any] | None] = [None] * len(picks)
    whys: Sequence[list[Reason] | None] = [None] * len(picks) if reasons is None else reasons
    if include:
        rows = pa.array([p.row for p in picks], pa.int64())
        metadata = release.items.select(list(dict.fromkeys(include))).take(rows).to_pylist()
    return [
        Recommended(
            item_id=release.item_ids[pick.row],
            score=pick.score,
            source=pick.source,
            promotion=pick.promotion,
            metadata=extra,
            reasons=why,
        )
        for pick, extra, why in zip(picks, metadata, whys, strict=True)
    ]
