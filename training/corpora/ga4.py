"""Flattens the export of Google Analytics 4 to BigQuery: one event holds a list of items; here each of them is an event.

The export has no catalogue. So items are made from what the events say of them: of each item, the last value of each attribute.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

NOT_SET = pa.array(["(not set)", ""])
CONTEXT = ("platform", "device.category", "geo.country", "traffic_source.source", "traffic_source.medium")
SALE = ("price", "quantity", "coupon", "item_list_name")  # of an item in an event; the others describe the item
NUMBERS = ("price", "quantity")
ATTRIBUTES = (
    "item_name",
    "item_brand",
    "item_variant",
    *(f"item_category{number}" for number in ("", 2, 3, 4, 5)),
    "price",
)
NEEDED = {"event_name", "event_timestamp", "items"}


@dataclass(slots=True)
class Flattened:
    """Events that were flattened: counts, and what is known of each item."""

    num_events: int = 0
    without_items: int = 0
    items: pa.Table | None = field(default=None)

    def events(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """One row per item of an event."""
        for batch in batches:
            items = _plain_list(batch.column("items"))
            self.num_events += len(batch)
            lengths = pc.list_value_length(items).fill_null(0)
            self.without_items += int(pc.sum(pc.equal(lengths, 0)).as_py() or 0)
            rows, flat = pc.list_parent_indices(items), _plain_struct(pc.list_flatten(items))
            item_id = _text(_part(flat, "item_id"))
            self._learn(item_id, flat)
            columns = {
                "user_id": _users(batch).take(rows),
                "item_id": item_id,
                "event_type": _text(batch.column("event_name")).take(rows),
                "timestamp": _times(batch.column("event_timestamp")).take(rows),
            }
            sale = {name: value for name in SALE if (value := _part(flat, name)) is not None}
            columns |= {name: _number(value) if name in NUMBERS else _text(value) for name, value in sale.items()}
            context = {name.replace(".", "_"): _path(batch, name) for name in CONTEXT}
            columns |= {name: _text(value).take(rows) for name, value in context.items() if value is not None}
            yield pa.record_batch(list(columns.values()), names=list(columns))

    def _learn(self, item_id: pa.Array, flat: pa.Array) -> None:
        known = {name: value for name in ATTRIBUTES if (value := _part(flat, name)) is not None}
        columns = [_number(value) if name in NUMBERS else _text(value) for name, value in known.items()]
        seen = pa.table([item_id, *columns], names=["item_id", *known]).filter(item_id.is_valid())
        table = seen if self.items is None else pa.concat_tables([self.items, seen], promote_options="default")
        names = [name for name in table.column_names if name != "item_id"]
        last = table.group_by("item_id", use_threads=False).aggregate([(name, "last") for name in names])
        self.items = last.select(["item_id", *(f"{name}_last" for name in names)]).rename_columns(["item_id", *names])


def is_ga4(schema: pa.Schema) -> bool:
    """Whether a table has the columns of the export, its items nested."""
    return set(schema.names) >= NEEDED and _is_nested(schema.field("items").type)


def _is_nested(kind: pa.DataType) -> bool:
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or (pt.is_struct(kind) and kind.num_fields == 1))


def _plain_list(column: pa.Array) -> pa.Array:
    """A list, also where the export writes it as `items.list`."""
    return column.field(0) if pt.is_struct(column.type) else column


def _plain_struct(flat: pa.Array) -> pa.Array:
    """The struct of an item, also where the export writes it as `element`."""
    one = flat.type.num_fields == 1 and pt.is_struct(flat.type.field(0).type)
    return pc.struct_field(flat, 0) if one else flat


def _part(structs: pa.Array, name: str) -> pa.Array | None:
    return pc.struct_field(structs, name) if structs.type.get_field_index(name) >= 0 else None


def _path(batch: pa.RecordBatch, name: str) -> pa.Array | None:
    outer, _, inner = name.partition(".")
    if outer not in batch.schema.names:
        return None
    column = batch.column(outer)
    if not inner:
        return None if pt.is_nested(column.type) else column
    return _part(column, inner) if pt.is_struct(column.type) else None


def _text(values: pa.Array | None) -> pa.Array:
    """Text, missing where it is (not set)."""
    texts = pa.nulls(0, pa.string()) if values is None else values.cast(pa.string())
    return pc.if_else(pc.is_in(texts, NOT_SET), None, texts)


def _number(values: pa.Array) -> pa.Array:
    return _text(values).cast(pa.float64())


def _users(batch: pa.RecordBatch) -> pa.Array:
    """The device's id, and where it is missing, as it is without consent, the id of the user."""
    found = [_text(batch.column(name)) for name in ("user_pseudo_id", "user_id") if name in batch.schema.names]
    return pc.coalesce(*found) if found else pa.nulls(len(batch), pa.string())


def _times(column: pa.Array) -> pa.Array:
    """Microseconds since 1970; BigQuery writes integers as text into JSON."""
    return column.cast(pa.int64()).cast(pa.timestamp("us", "UTC"))
