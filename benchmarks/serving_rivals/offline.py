"""A stored history as the offline evaluation asks the model about it: whole, with nothing kept. Serving is held against it.

M: past items, N: items
"""

from collections.abc import Sequence
from itertools import count

import numpy as np
import pyarrow as pa

from service.histories.history import PastItem, StoredEvent, UserHistory
from service.model.event_contexts import number_of, text_of
from service.release.loaded import LoadedRelease
from twotower.artefacts.bundle import Towers
from twotower.data.features import EncodedRows, Floats, encode_rows
from twotower.data.item_statistics import ItemStatistics
from twotower.data.schema import EVENT_TYPE
from twotower.data.window import History
from twotower.model.scoring import Queries, Request, answer
from twotower.model.searches import embed_queries


def model_history(release: LoadedRelease, events: Sequence[StoredEvent]) -> History:
    """Events of items that the release has, and searches, as the contextualizer reads them."""
    queries = tuple(event.query for event in events if event.query is not None)
    searches = count(-1, -1)
    rows = [next(searches) if event.item_id is None else release.rows[event.item_id] for event in events]
    times_ms = np.array([event.time_ms for event in events], np.int64)
    return History(np.array(rows, np.int64), times_ms, event_context(release.towers, events), queries)


def item_statistics_of(past: dict[int, PastItem]) -> ItemStatistics:
    """Statistics of past items, given by item row."""
    if not past:
        return ItemStatistics.empty()
    values = list(past.values())
    return ItemStatistics(
        np.array(list(past), np.int64),
        np.array([item.count for item in values], np.int64),
        np.array([item.first_ms for item in values], np.int64),
        np.array([item.last_ms for item in values], np.int64),
        np.array([item.decayed for item in values], np.float64),
    )


def offline_request(release: LoadedRelease, history: UserHistory, now_ms: int, target_event_type: str | None = None) -> Request:
    """What the offline evaluation asks; events and past items that the release does not have are left out."""
    known = [event for event in history.window if release.reads(event)]
    past = {release.rows[item_id]: item for item_id, item in history.items.items() if item_id in release.rows}
    return Request(model_history(release, known), item_statistics_of(past), now_ms, target_event_type)


def offline_queries(release: LoadedRelease, request: Request) -> Queries:
    """The model's answer; the release must be without item changes."""
    towers = release.towers
    searches_SD = embed_queries(towers.embedder, towers.contextualizer, request.history.queries, towers.config.model)
    return answer(towers.contextualizer, towers.config.model, release.vectors_NV, [request], searches_SD)


def offline_scores(release: LoadedRelease, request: Request) -> Floats:
    """The score of every item, [N]."""
    return np.asarray(offline_queries(release, request).dense_scores(release.vectors_NV)[0].numpy())


def event_context(towers: Towers, events: Sequence[StoredEvent]) -> EncodedRows:
    """Encoded event types and event features. Features of the schema are taken from `properties` by name."""
    config = towers.config.model
    columns = {EVENT_TYPE: pa.array([e.event_type for e in events], pa.string())}
    for name, kind in towers.schema.events.features.items():
        values = [e.properties.get(name) for e in events]
        is_number = kind == "numeric"
        columns[name] = pa.array(map(number_of if is_number else text_of, values), pa.float64() if is_number else pa.string())
    return encode_rows(columns, config.context_spec, config.context_table_rows)
