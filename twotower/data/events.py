"""Streams the event log as record batches, with ids as strings and times in milliseconds.

E: events of a batch
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from twotower.data.features import DAY_MS, Ints, as_values
from twotower.data.schema import Constant, EventColumns
from twotower.errors import DataError

BATCH_ROWS = 131_072
MAX_ID_BYTES = 128
CLOCK_SKEW_MS = DAY_MS  # for wrong clocks and time zones; a single event of 2096 would make all others count nothing
# Seconds since the epoch that are read as milliseconds fall before this, for any plausible date.
EARLIEST_MS = 315_532_800_000  # 1980-01-01
LATEST_MS = 4_102_444_800_000  # 2100-01-01


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Some rows of the log, in file order."""

    user_ids: pa.Array
    item_ids: pa.Array
    times_ms_E: Ints
    event_types: pa.Array
    features: dict[str, pa.Array]
    num_future: int  # rows left out because they lie more than a day ahead of the clock

    def __len__(self) -> int:
        return len(self.times_ms_E)


def stream_events(path: Path, columns: EventColumns, features: tuple[str, ...] = ()) -> Iterator[EventBatch]:
    """Batches of the log with the given `features`; DataError names the column and what is wrong with it.

    A missing event type reads as `event`. Rows more than a day ahead of the clock are left out and counted.
    """
    dataset = open_parquet(path, "events")
    needed = [*columns.roles, *features]
    require_columns(dataset.schema, needed, path)
    latest_ms = time.time_ns() // 1_000_000 + CLOCK_SKEW_MS
    empty = True
    for batch in stream_batches(dataset, needed, BATCH_ROWS, path):
        empty = False
        times_ms_E = times_ms(batch.column(columns.timestamp), columns.timestamp)
        num_future = int((times_ms_E > latest_ms).sum())
        if num_future:
            batch = batch.filter(pa.array(times_ms_E <= latest_ms))
            times_ms_E = times_ms_E[times_ms_E <= latest_ms]
        yield EventBatch(
            user_ids=ids(batch.column(columns.user_id), columns.user_id),
            item_ids=ids(batch.column(columns.item_id), columns.item_id),
            times_ms_E=times_ms_E,
            event_types=event_types(batch, columns),
            features={name: batch.column(name) for name in features},
            num_future=num_future,
        )
    if empty:
        raise DataError(f"{path} holds no events")


def event_types(batch: pa.RecordBatch, columns: EventColumns) -> pa.Array:
    """The type of each event: the constant of the schema, or the column's value, and `event` where it is missing."""
    if isinstance(columns.event_type, Constant):
        return pa.repeat(columns.event_type.constant, batch.num_rows)
    return as_values(batch.column(columns.event_type), columns.event_type).fill_null("event")


def open_parquet(path: Path, what: str) -> ds.Dataset:
    """A Parquet file, or every Parquet file of a directory, as one dataset."""
    if not path.exists():
        raise DataError(f"{path} does not exist: give the Parquet file (or a directory of them) that holds the {what}")
    try:
        dataset = ds.dataset(path, format="parquet")
        if not dataset.files:
            raise DataError(f"{path} holds no Parquet files")
        return dataset
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error


def stream_batches(dataset: ds.Dataset, columns: list[str], batch_rows: int, path: Path) -> Iterator[pa.RecordBatch]:
    """Record batches that are not empty, dictionaries decoded; DataError for a damaged file or files of different schemas."""
    try:
        for batch in dataset.to_batches(columns=columns, batch_size=batch_rows, batch_readahead=1, fragment_readahead=1):
            if batch.num_rows:
                plain = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in batch.columns]
                yield pa.record_batch(plain, names=columns)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}. Are all its files whole, and of one schema?") from error


def count_rows(path: Path, what: str) -> int:
    """Number of rows of a Parquet file or directory, from its metadata alone."""
    return int(open_parquet(path, what).count_rows())


def require_columns(schema: pa.Schema, names: list[str], path: Path) -> None:
    """DataError when a column that the schema file names is absent."""
    if missing := [n for n in names if n not in schema.names]:
        raise DataError(
            f"{path} has no column {', '.join(map(repr, missing))}; it has {', '.join(schema.names)}. "
            f"Correct the names in schema.toml, or the file."
        )


def ids(column: pa.Array, name: str) -> pa.Array:
    """The column as opaque string ids of 1 to 128 bytes; a missing id becomes the empty string."""
    if pa.types.is_floating(column.type):
        raise DataError(f"column {name!r} holds floats: ids are strings or integers")
    try:
        strings = column.cast(pa.string()).fill_null("")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"column {name!r} holds {column.type}: ids are strings or integers") from error
    longest = pc.max(pc.binary_length(strings)).as_py() or 0
    if longest > MAX_ID_BYTES:
        raise DataError(f"column {name!r} holds an id of {longest} bytes: ids are at most {MAX_ID_BYTES} bytes")
    return strings


def times_ms(column: pa.Array, name: str) -> Ints:
    """The column as UTC milliseconds; DataError for a missing time, or for numbers that must be of another unit."""
    if column.null_count:
        raise DataError(f"column {name!r}: {column.null_count} rows have no time; drop them or fill them in")
    result: Ints = to_ms(column, name).to_numpy(zero_copy_only=False)
    low, high = int(result.min()), int(result.max())
    if low < EARLIEST_MS or high > LATEST_MS:
        unit = "seconds" if high < EARLIEST_MS else "micro- or nanoseconds" if low > LATEST_MS else "another unit"
        raise DataError(
            f"column {name!r} reaches from {low} to {high}, which as milliseconds lies outside 1980 to 2100: "
            f"it looks like {unit}. Store a timestamp, or epoch milliseconds."
        )
    return result


def to_ms(column: pa.Array, name: str) -> pa.Array:
    """The column as int64 milliseconds, without a check of their range. Missing values stay missing."""
    try:
        if not pa.types.is_integer(column.type):
            column = column.cast(pa.timestamp("ms"), safe=False)
        return column.cast(pa.int64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"column {name!r} holds {column.type}: give a timestamp, or integers that count milliseconds") from error
