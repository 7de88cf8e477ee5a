"""The request path without HTTP: history and rules in, ranked items out. Everything here runs on the engine's thread.

N: items, L: events the model reads, M: own items, U: rows that a request names
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from service.arrangement import arrange, matching, pairs, searches
from service.errors import ApiError
from service.explain import explain
from service.filters import Mask
from service.history import OwnItem, StoredEvent, UserHistory
from service.index import LoadedRelease, best, similar
from service.pages import open_page
from service.promotions import Pick
from service.schemas import AboutUser, Event, Feature, Reason, Recommended, RecommendRequest, SimilarRequest
from twotower.catalogue import embed_table
from twotower.errors import DataError
from twotower.features import EncodedRows, Floats, Ints, encode_rows
from twotower.raw_items import item_table
from twotower.repeat import ItemStatistics
from twotower.scoring import Queries, Request, answer
from twotower.window import History

FILTER_MATCHES_NOTHING = "filter_matches_nothing"
SIMILAR_POOL = 100  # items similar enough to be ranked for a user


@dataclass(frozen=True, slots=True)
class Ranking:
    """An answer and what it stands on."""

    items: list[Recommended]
    events_used: int
    events_ignored: int
    missing_item_ids: list[str]
    degraded: list[str]
    next_page_token: str | None = None


def recommend(release: LoadedRelease, asked: RecommendRequest, stored: UserHistory, now_ms: int) -> Ranking:
    """Rank the allowed items for one user at one moment; ApiError names the field that cannot be used."""
    check_metadata(release, asked.include_metadata)
    page = open_page(release, asked, now_ms)
    user = read_user(release, asked, stored, page.now_ms)
    allowed_N, degraded = allowed_items(release, asked, user.own)
    wanted = searches(release, asked, page, allowed_N)
    items: list[Recommended] = []
    token = None
    if not asked.validate_only:
        queries = ask_model(release, [user.request])
        found = [best(release, queries, search.k, search.allowed_N) for search in wanted]
        arranged = arrange(release, asked, page, wanted, found)
        picks, token, degraded = arranged.picks, arranged.next_page_token, degraded + arranged.degraded
        reasons = None
        if asked.explain:
            reasons = explain(release, user.request, user.own, [p.row for p in picks], partial(ask_model, release))
        items = present(release, picks, asked.include_metadata, reasons)
    return Ranking(
        items=items,
        events_used=user.events_used,
        events_ignored=user.events_ignored,
        missing_item_ids=user.missing(release, asked.candidate_item_ids or ()),
        degraded=degraded,
        next_page_token=token,
    )


@dataclass(frozen=True, slots=True)
class User:
    """Of whom a request speaks, in the release's rows."""

    request: Request
    own: dict[int, OwnItem]
    item_ids: list[str]  # of the window, known or not
    events_used: int
    events_ignored: int

    def missing(self, release: LoadedRelease, named: Sequence[str]) -> list[str]:
        """The ids of the history, and those `named`, that the catalogue does not know, each once."""
        return [i for i in dict.fromkeys([*self.item_ids, *named]) if i not in release.rows]


def read_user(release: LoadedRelease, asked: AboutUser, stored: UserHistory, now_ms: int) -> User:
    """What the model is shown of the history that the request speaks of."""
    history = merge_inline(stored, asked)
    known = [e for e in history.window if e.item_id in release.rows]
    own = {release.rows[i]: own for i, own in history.items.items() if i in release.rows}
    request = Request(model_history(release, known), item_statistics_of(own), now_ms, asked.target_event_type)
    item_ids = [e.item_id for e in history.window if e.item_id]
    return User(request, own, item_ids, len(known), len(history.window) - len(known))


def ask_model(release: LoadedRelease, requests: Sequence[Request]) -> Queries:
    """The model's answers. Where vectors stand in two places it is shown those of the requests' own rows alone."""
    towers = release.towers
    if release.added is None:
        return answer(towers.contextualizer, towers.config.model, release.vectors_NV, requests)
    named = [r for q in requests for r in (q.history.item_rows_L, q.statistics.item_rows_M)]
    rows_U = np.unique(np.concatenate([np.zeros(1, np.int64), *named]))  # row 0 pads an empty history
    local = [
        replace(
            q,
            history=replace(q.history, item_rows_L=np.searchsorted(rows_U, q.history.item_rows_L)),
            statistics=replace(q.statistics, item_rows_M=np.searchsorted(rows_U, q.statistics.item_rows_M)),
        )
        for q in requests
    ]
    queries = answer(towers.contextualizer, towers.config.model, release.vectors(rows_U), local)
    return replace(queries, own_rows_M=torch.from_numpy(rows_U)[queries.own_rows_M])


def merge_inline(stored: UserHistory, asked: AboutUser) -> UserHistory:
    """The history the request speaks of: inline events count as if they had just been stored, but are not."""
    before = UserHistory() if asked.history_mode == "replace" else stored
    return before.extended(to_stored(e, asked.user_id or "") for e in asked.events)


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
    return History(rows, np.array([e.time_ms for e in events], np.int64), event_context(release, events))


def event_context(release: LoadedRelease, events: Sequence[StoredEvent]) -> EncodedRows:
    """Event types and the event features of the schema, taken from `properties` by name."""
    config = release.towers.config.model
    columns = {"event_type": pa.array([e.event_type for e in events], pa.string())}
    for name, kind in release.towers.schema.events.features.items():
        values = [e.properties.get(name) for e in events]
        if kind == "numeric":
            columns[name] = pa.array([_number(v) for v in values], pa.float64())
        else:
            columns[name] = pa.array([None if v is None else str(v) for v in values], pa.string())
    return encode_rows(columns, config.context_spec, config.context_table_rows)


def _number(value: Any) -> float | None:
    """Text where a number belongs is a missing number: stored events outlive schemas and cannot be refused any more."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


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


def allowed_items(release: LoadedRelease, asked: RecommendRequest, own: dict[int, OwnItem]) -> tuple[Mask | None, list[str]]:
    """Which items may be returned, [N] or None for all, and notes for `degraded`."""
    types = frozenset(asked.exclude_event_types)
    seen = [row for row, item in own.items() if asked.exclude_seen or item.event_types & types]
    candidates = asked.candidate_item_ids
    if asked.filter is None and candidates is None and not asked.exclude_item_ids and not seen:
        return None, []
    mask, notes = rules(release, asked.filter, asked.exclude_item_ids)
    if candidates is not None:
        mask &= mask_of(release, known_rows(release, candidates))
    mask[seen] = False
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


def find_similar(
    release: LoadedRelease, asked: SimilarRequest, stored: UserHistory, now_ms: int
) -> tuple[list[Recommended], list[str]]:
    """Items like the one asked about, and notes for `degraded`; ApiError for an unknown item or unusable features.

    With a user they are the most similar ones, ranked by the model's score for that user.
    """
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
    if asked.user_id is None and not asked.events:
        rows, scores = similar(release, vector_D, asked.num_results, mask)
    else:
        pool, _ = similar(release, vector_D, max(asked.num_results, SIMILAR_POOL), mask)
        queries = ask_model(release, [read_user(release, asked, stored, now_ms).request])
        rows, scores = best(release, queries, asked.num_results, mask_of(release, pool))
    return present(release, [Pick(*pair) for pair in pairs(rows, scores)], asked.include_metadata), notes


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
