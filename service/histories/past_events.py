"""Past events, from the files that training reads, as POST /v1/events takes them."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from twotower.data.events import EventBatch, stream_events
from twotower.data.schema import EventColumns
from twotower.tables.left_out import LeftOut

Json = dict[str, Any]


def read_past_events(path: Path, columns: EventColumns, left_out: LeftOut) -> Iterator[list[Json]]:
    """The events of a log, a batch of rows at a time. Rows without a user, an item or a time are left out and counted.

    The `event_id` of a row is made of its user, item, time and type, so that the same row has the same id in every export.
    """
    for batch in stream_events(path, columns, tuple(columns.features), left_out):
        yield list(_events(batch))


def _events(batch: EventBatch) -> Iterator[Json]:
    roles = (batch.user_ids, batch.item_ids, pa.array(batch.times_ms_E), batch.event_types)
    features = {name: column.to_pylist() for name, column in batch.features.items()}
    seen = Counter[str]()  # rows that are alike are several events: three of one item in a basket
    for row, (user_id, item_id, time_ms, event_type) in enumerate(zip(*(column.to_pylist() for column in roles), strict=True)):
        if not user_id or not item_id:
            continue
        name = xxhash.xxh3_128_hexdigest("\0".join((user_id, item_id, str(time_ms), event_type)).encode())
        seen[name] += 1
        given = {feature: column[row] for feature, column in features.items()}
        yield {
            "event_id": f"{name}-{seen[name]}",
            "user_id": user_id,
            "item_id": item_id,
            "timestamp": time_ms,
            "event_type": event_type,
            "properties": {feature: _property(value) for feature, value in given.items() if value is not None},
        }


def _property(value: Any) -> Any:
    """A feature as JSON holds it: NaN is null, a decimal a number."""
    if isinstance(value, str | int):
        return value
    return number if math.isfinite(number := float(value)) else None
