"""The request path without HTTP: history and rules in, ranked items out. Everything here runs on the engine's thread.

N: items, L: events the model reads, M: own items, U: rows that a request names
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from service.contexts import event_context
from service.errors import ApiError
from service.filters import InvalidFilter, Mask
from service.history import OwnItem, StoredEvent, UserHistory
from service.index import LoadedRelease, similar
from service.schemas import Event, Feature, Recommended, RecommendRequest, SimilarRequest
from twotower.catalogue import embed_table
from twotower.errors import DataError
from twotower.features import Floats, Ints
from twotower.raw_items import item_table
from twotower.repeat import ItemStatistics
from twotower.window import History

FILTER_MATCHES_NOTHING = "filter_matches_nothing"


@dataclass(frozen=True, slots=True)
class Ranking:
    """An answer and what it stands on."""

    items: list[Recommended]
    events_used: int
    events_ignored: int
    missing_item_ids: list[str]
    degraded: list[str]


@dataclass(frozen=True, slots=True)
class Search:
    """The best `k` of some items are wanted; None allows all."""

    k: int
    allowed_N: Mask | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that was checked, in the release's terms."""

    asked: RecommendRequest
    now_ms: int
    history: UserHistory
    known: tuple[StoredEvent, ...]  # events of the window whose items the release has
    search: Search
    degraded: list[str]


def prepare(release: LoadedRelease, asked: RecommendRequest, stored: UserHistory, now_ms: int) -> Prepared:
    """What is asked for a user at a moment; ApiError names the field that cannot be used."""
    check_metadata(release, asked.include_metadata)
    history = merge_inline(stored, asked)
    known = tuple(e for e in history.window if e.item_id in release.rows)
    allowed_N, degraded = allowed_items(release, asked, history.items)
    return Prepared(asked, now_ms, history, known, Search(asked.num_results, allowed_N), degraded)


def finish(release: LoadedRelease, one: Prepared, rows: Ints, scores: Floats) -> Ranking:
    """The answer made of what was found, best first."""
    window = one.history.window
    named = [*(e.item_id for e in window if e.item_id), *(one.asked.candidate_item_ids or ())]
    return Ranking(
        items=present(release, rows, scores, one.asked.include_metadata),
        events_used=len(one.known),
        events_ignored=len(window) - len(one.known),
        missing_item_ids=[i for i in dict.fromkeys(named) if i not in release.rows],
        degraded=one.degraded,
    )


def merge_inline(stored: UserHistory, asked: RecommendRequest) -> UserHistory:
    """The history the request speaks of: inline events count as if they had just been stored, but are not."""
    before = UserHistory() if asked.history_mode == "replace" else stored
    return before.extended(to_stored(e, asked.user_id or "") for e in asked.events) if asked.events else before


def to_stored(event: Event, user_id: str) -> StoredEvent:
    """An event as the stores keep it."""
    return StoredEvent(
        user_id=user_id,
        event_type=event.event_type,
        time_ms=event.time_ms,
        item_id=event.item_id,
        event_id=event.event_id,
        session_id=event.session_id,
        value=event.value,
        properties=event.properties,
        recommendation_id=event.recommendation_id,
        position=event.position,
    )


def model_history(release: LoadedRelease, events: Sequence[StoredEvent]) -> History:
    """Events of known items as the contextualizer reads them."""
    rows = np.array([release.rows[e.item_id] for e in events if e.item_id is not None], np.int64)
    return History(rows, np.array([e.time_ms for e in events], np.int64), event_context(release.towers, events))


def item_statistics_of(own: dict[int, OwnItem]) -> ItemStatistics:
    """Statistics of the whole history for the repeat score."""
    if not own:
        return ItemStatistics.empty()
    values = list(own.values())
    return ItemStatistics(
        np.array(list(own), np.int64),
        np.array([o.count for o in values], np.int64),
        np.array([o.first_ms for o in values], np.int64),
        np.array([o.last_ms for o in values], np.int64),
        np.array([o.decayed for o in values], np.float64),
    )


def allowed_items(release: LoadedRelease, asked: RecommendRequest, own: Mapping[str, OwnItem]) -> tuple[Mask | None, list[str]]:
    """Which items may be returned, [N] or None for all, and notes for `degraded`."""
    mask, notes = rules(release, asked.filter, asked.exclude_item_ids)
    if asked.candidate_item_ids is not None:
        candidates_N = np.zeros(len(release), bool)
        candidates_N[known_rows(release, asked.candidate_item_ids)] = True
        mask &= candidates_N
    if asked.exclude_seen or asked.exclude_event_types:
        types = frozenset(asked.exclude_event_types)
        mask[known_rows(release, [i for i, o in own.items() if asked.exclude_seen or o.event_types & types])] = False
    return (None if mask.all() else mask), notes


def rules(release: LoadedRelease, expression: str | None, exclude_item_ids: Sequence[str]) -> tuple[Mask, list[str]]:
    """Filter and exclude list as a fresh mask [N], and notes for `degraded`."""
    notes: list[str] = []
    mask = release.listed()
    if expression is not None:
        try:
            mask &= release.filters.mask(expression)
        except InvalidFilter as error:
            raise ApiError("invalid_request", f"filter: {error}", "filter") from error
        if not mask.any():
            notes.append(FILTER_MATCHES_NOTHING)
    mask[known_rows(release, exclude_item_ids)] = False
    return mask, notes


def known_rows(release: LoadedRelease, item_ids: Sequence[str]) -> list[int]:
    """Rows of the ids that the catalogue knows."""
    return [release.rows[i] for i in item_ids if i in release.rows]


def check_metadata(release: LoadedRelease, names: Sequence[str]) -> None:
    """ApiError for metadata that items do not have."""
    if unknown := [n for n in names if n not in release.items.column_names]:
        message = f"items have no {unknown[0]!r}; they have {', '.join(release.items.column_names)}"
        raise ApiError("invalid_request", message, "include_metadata")


def present(release: LoadedRelease, rows: Ints, scores: Floats, include: Sequence[str]) -> list[Recommended]:
    """Ranked rows as the client sees them."""
    metadata: list[dict[str, Any] | None] = [None] * len(rows)
    if include:
        metadata = release.items.select(list(dict.fromkeys(include))).take(pa.array(rows)).to_pylist()
    return [
        Recommended(item_id=release.item_ids[row], score=float(score), metadata=extra)
        for row, score, extra in zip(rows.tolist(), scores.tolist(), metadata, strict=True)
    ]


def find_similar(release: LoadedRelease, asked: SimilarRequest) -> tuple[list[Recommended], list[str]]:
    """Items like the one asked about, and notes for `degraded`; ApiError for an unknown item or unusable features."""
    check_metadata(release, asked.include_metadata)
    mask, notes = rules(release, asked.filter, asked.exclude_item_ids)
    if asked.item_id is not None:
        if asked.item_id not in release.rows:
            raise ApiError("not_found", f"the catalogue has no item {asked.item_id!r}; describe it in `item` instead", "item_id")
        row = release.rows[asked.item_id]
        mask[row] = False
        vector_D = release.vectors(np.array([row]))[0, : release.towers.config.model.width].numpy()
    else:
        vector_D = embed_item(release, asked.item or {})
    return present(release, *similar(release, vector_D, asked.num_results, mask), asked.include_metadata), notes


def embed_item(release: LoadedRelease, item: dict[str, Feature]) -> Floats:
    """The vector [D] of an item given by raw features; what is not given is missing."""
    model = release.towers.config.model
    row, unusable = item_table([item], release.items.schema)
    if unusable:
        raise ApiError("invalid_request", str(unusable[0]), f"item.{unusable[0].name}") from unusable[0]
    try:
        vector_1D = embed_table(row, release.towers.embedder, model.item_spec, model.table_rows)
    except DataError as error:
        raise ApiError("invalid_request", str(error), "item") from error
    return np.asarray(vector_1D[0], np.float32)
