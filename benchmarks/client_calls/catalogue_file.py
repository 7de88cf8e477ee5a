"""Writes a catalogue of ours in the 15 columns that the client uploads."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from service.uploads.columns import roles_of
from service.uploads.file_format import COLUMNS
from twotower.data.features import DAY_MS
from twotower.data.schema import Schema

PERIODS_DAYS = (*range(30, 360, 30), 10**6)  # the last one is all time


def write_catalogue(items: pa.Table, schema: Schema, path: Path, events: pa.Table | None = None) -> pa.Table:
    """Write the items, with their sales if there are events, and return what was written. An item without a name has its id."""
    roles, ids = roles_of(schema.items), items.column(schema.items.item_id).combine_chunks().cast(pa.string())
    columns = {name: pa.nulls(len(items), kind) for name, kind in COLUMNS.items()}
    columns |= {"id": ids, "event_type": pa.array(["product"] * len(items)), "group": pa.array(["product"] * len(items))}
    columns["name"] = pc.coalesce(items.column(roles.name).combine_chunks(), ids) if roles.name else ids
    if roles.brand:
        columns["brand"] = items.column(roles.brand).combine_chunks()
    if roles.price:
        prices = items.column(roles.price).to_pylist()
        columns["price"] = pa.array([None if price is None else f"{price:.2f}" for price in prices], pa.string())
    paths = zip(*(items.column(name).to_pylist() for name in roles.categories), strict=True)
    columns["categories"] = pa.array([", ".join(str(part).replace(",", " ") for part in path if part) or None for path in paths])
    if events is not None:
        columns |= sales_of(ids, events, schema)
    table = pa.table(columns)
    pq.write_table(table, path)
    return table


def sales_of(ids: pa.Array, events: pa.Table, schema: Schema) -> dict[str, pa.Array]:
    """The columns about sales, as of the last event."""
    rows = pc.index_in(events.column(schema.events.item_id).combine_chunks(), ids)
    times_ms = events.column(schema.events.timestamp).cast(pa.timestamp("ms", "UTC")).cast(pa.int64()).to_numpy()
    known = rows.is_valid().to_numpy(zero_copy_only=False)
    rows_E, age_days_E = rows.drop_null().to_numpy(), (times_ms.max() - times_ms[known]) / DAY_MS
    counts = [np.bincount(rows_E[age_days_E <= days], minlength=len(ids)) for days in PERIODS_DAYS]
    return {
        "sales_since": pa.array(np.stack(counts, 1).tolist(), pa.list_(pa.int64())),
        "frequency": pa.array(counts[-1], pa.int64()),
    }
