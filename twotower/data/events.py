"""Streams the event log as record batches, with ids as strings and times in milliseconds.

E: events of a batch
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.features import DAY_MS, Ints, as_values
from twotower.data.schema import Constant, EventColumns
from twotower.data.words import tokens
from twotower.errors import DataError
from twotower.tables.ids import sound_ids, undecodable
from twotower.tables.left_out import LeftOut
from twotower.tables.table import open_table
from twotower.tables.times import TimeColumn

BATCH_ROWS = 131_072
MAX_QUERY = 256  # characters of a query; the service takes no longer one
CLOCK_SKEW_MS = DAY_MS  # for wrong clocks and time zones; a single event of 2096 would make all others count nothing


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Some rows of the log, in file order; at least one."""

    user_ids: pa.Array
    item_ids: pa.Array
    times_ms_E: Ints
    event_types: pa.Array
    features: dict[str, pa.Array]
    queries: pa.Array | None = None  # texts of searches, null in other rows; None for a log without a column of queries

    def __len__(self) -> int:
        return len(self.times_ms_E)


def stream_events(
    path: Path, columns: EventColumns, features: tuple[str, ...] = (), left_out: LeftOut | None = None
) -> Iterator[EventBatch]:
    """Batches of the log with the given `features`. A missing event type reads as `event`, a missing or faulty id as "".

    Rows without a usable time, or more than a day ahead of the clock, are left out. `left_out` counts them, and faulty ids.
    At the end, DataError when most rows have such a fault in one column, or when no row is left.
    """
    table = open_table(path, "events")
    needed = [*columns.roles, *features]
    table.require(needed)
    tally = LeftOut() if left_out is None else left_out
    times = TimeColumn(columns.timestamp, tally)
    latest_ms = time.time_ns() // 1_000_000 + CLOCK_SKEW_MS
    empty = True
    for part, batch in table.batches_by_part(needed, BATCH_ROWS):
        times.begin(part.file)
        tally.num_rows += len(batch)
        times_ms_E, kept_E = times.read(batch.column(columns.timestamp))
        future_E = kept_E & (times_ms_E > latest_ms)
        tally.add(columns.timestamp, "their time is more than a day in the future", int(future_E.sum()))
        kept_E &= ~future_E
        if not kept_E.all():
            batch, times_ms_E = batch.filter(pa.array(kept_E)), times_ms_E[kept_E]
        if len(batch):
            empty = False
            queries = None if columns.query is None else search_queries(batch, columns.query, columns.item_id)
            searches = None if queries is None else queries.is_valid()
            yield EventBatch(
                user_ids=sound_ids(batch.column(columns.user_id), columns.user_id, tally),
                item_ids=sound_ids(batch.column(columns.item_id), columns.item_id, tally, need_none=searches),
                times_ms_E=times_ms_E,
                event_types=event_types(batch, columns),
                features={name: batch.column(name) for name in features},
                queries=queries,
            )
    tally.require_sound(path)
    if empty:
        reasons = "; ".join(f"{reason.count:,}: {reason.why}" for reason in tally.reasons)
        unusable = f"{path}: none of its {tally.num_rows:,} events can be used ({reasons})"
        raise DataError(unusable if reasons else f"{path} holds no events")


def search_queries(batch: pa.RecordBatch, name: str, item_column: str) -> pa.Array:
    """The query of each search, cut to MAX_QUERY characters. A search has no item, and a query with a letter or digit."""
    texts = as_values(batch.column(name), name)
    if (faulty_E := undecodable(texts)).any():
        texts = pc.if_else(pa.array(faulty_E), None, texts)
    items = batch.column(item_column)
    has_item = items.is_valid()
    if pa.types.is_string(items.type):
        has_item = pc.not_equal(items, "").fill_null(False)
    encoded = pc.if_else(has_item, None, pc.utf8_slice_codeunits(texts, 0, MAX_QUERY)).dictionary_encode()
    kept = [text if tokens(text) else None for text in encoded.dictionary.to_pylist()]
    return pa.array(kept, pa.string()).take(encoded.indices)


def event_types(batch: pa.RecordBatch, columns: EventColumns) -> pa.Array:
    """The type of each event: the constant of the schema, or the column's value, and `event` where there is none."""
    if isinstance(columns.event_type, Constant):
        return pa.repeat(columns.event_type.constant, batch.num_rows)
    types = as_values(batch.column(columns.event_type), columns.event_type)
    faulty_E = undecodable(types)
    return (pc.if_else(pa.array(faulty_E), None, types) if faulty_E.any() else types).fill_null("event")
