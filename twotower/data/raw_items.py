"""Turns items given as JSON into rows with the columns of an item table."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

Features = Mapping[str, Any]  # by the schema's names; an absent name is a missing value


class UnusableFeature(ValueError):
    """An unknown feature, or a value that does not fit the type of its column."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


def item_table(items: Sequence[Features], schema: pa.Schema) -> tuple[pa.Table, dict[int, UnusableFeature]]:
    """The items that fit the columns of `schema`, as rows, and for each other item, by its place, why it does not."""
    try:
        return _table(items, schema), {}
    except UnusableFeature:
        rows, unusable = [schema.empty_table()], {}
        for place, item in enumerate(items):
            try:
                rows.append(_table([item], schema))
            except UnusableFeature as error:
                unusable[place] = error
        return pa.concat_tables(rows).combine_chunks(), unusable


def _table(items: Sequence[Features], schema: pa.Schema) -> pa.Table:
    for name in chain.from_iterable(items):
        if name not in schema.names:
            raise UnusableFeature(name, f"items have no feature {name!r}; they have {', '.join(schema.names)}")
    return pa.table([_column(field, [item.get(field.name) for item in items]) for field in schema], schema=schema)


def _column(field: pa.Field, values: list[Any]) -> pa.Array:
    kinds = {type(v) for v in chain.from_iterable(v if isinstance(v, list) else (v,) for v in values)} - {type(None)}
    # Arrow would give integers and floats one type, and 5 would become the text 5.0.
    parts = [values] if len(kinds) <= 1 else [[value] for value in values]
    try:
        return pa.concat_arrays([_cast(pa.array(part), field.type) for part in parts])
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise UnusableFeature(field.name, f"{field.name!r} must be {field.type}: {error}") from error


def _cast(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """The values in a type. Of a text with nanoseconds, a column of a coarser unit keeps what it can, as when a file is read."""
    try:
        return values.cast(kind)
    except pa.ArrowInvalid:
        if not (pa.types.is_timestamp(kind) and pa.types.is_string(values.type)):
            raise
        return values.cast(pa.timestamp("ns", kind.tz)).cast(kind, safe=False)
