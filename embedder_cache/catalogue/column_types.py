"""Holds the columns of the catalogue to their kinds and to the types of the served release, because filters depend on types.

An export may write a price as text from one night to the next. Then `price < 10` cannot be answered. So a column of another
family of types is converted where every value can be: text to numbers, truth values or times, and back.

B: rows of a batch
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.faults import Fault
from twotower.data.schema import ItemColumns
from twotower.model.catalogue import BATCH_ITEMS
from twotower.tables.ids import Mask, undecodable
from twotower.tables.iso_times import parse_times
from twotower.tables.table import Table, open_table

NUMBERS, TEXTS, TRUTHS, TIMES, MISSING = "numbers", "text", "true or false", "times", "nothing"
_OF_KIND = {"numeric": (NUMBERS, TRUTHS), "time": (TIMES,)}  # families that a kind needs, whatever was served
_DEFAULTS = {"numeric": pa.float64(), "time": pa.timestamp("ms")}
_UNREADABLE = {NUMBERS: "is no number", TIMES: "is no time"}
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^[+-]?(?i:nan|inf|infinity)$"
_TRUE, _FALSE = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")


@dataclass(frozen=True, slots=True)
class HeldColumns:
    """The columns to convert, each with its type, and what to tell the operator about them."""

    types: Mapping[str, pa.DataType]
    lines: tuple[str, ...] = ()

    def apply(self, batch: pa.Table) -> tuple[pa.Table, list[Fault]]:
        """The batch with these columns converted, and the rows whose value cannot be; such a value is missing."""
        faults: list[Fault] = []
        for name, kind in self.types.items():
            column, unreadable_B = converted(batch.column(name).combine_chunks(), kind)
            batch = batch.set_column(batch.column_names.index(name), name, column)
            if unreadable_B.any():
                faults.append((name, _UNREADABLE.get(family(kind), f"is not {kind}"), unreadable_B))
        return batch, faults


def hold_columns(path: Path, columns: ItemColumns, served: pa.Schema | None) -> HeldColumns:
    """The columns of the file to convert: to what their kind needs, else to the type of the `served` item table.

    A numeric or time column is always converted, and a value that cannot be is the fault of its row. Any other column keeps the
    type of the file unless all its values can be converted without a loss.
    """
    table = open_table(path, "items")
    table.require([columns.item_id, *columns.features])
    types: dict[str, pa.DataType] = {}
    lines: list[str] = []
    for name, kind in columns.features.items():
        found, before = table.schema.field(name).type, served_type(served, name)
        wanted = _wanted(kind, found, before)
        if wanted is None:
            continue
        readable, unreadable, example = _try_out(table, name, wanted)
        if unreadable and kind not in _OF_KIND:
            continue
        types[name] = wanted
        told = f"column {name!r} holds {family(found)}, which is read as {family(wanted)}" if readable or unreadable else None
        if unreadable:
            told = f"{told}: {unreadable:,} values are none, such as {example!r}"
        if told:
            lines.append(f"WARNING: {told}")
    return HeldColumns(types, tuple(lines))


def served_type(served: pa.Schema | None, name: str) -> pa.DataType | None:
    """The type of a column of the served item table; None when it has no such column, or one without any value."""
    kind = served.field(name).type if served is not None and name in served.names else None
    return None if kind is None or pa.types.is_null(kind) else kind


def _wanted(kind: str, found: pa.DataType, before: pa.DataType | None) -> pa.DataType | None:
    """The type to convert a column to, or None when it may stay as it is."""
    if kind == "vector":
        return None
    if kind in _OF_KIND and (before is None or family(before) not in _OF_KIND[kind]):
        return _DEFAULTS[kind] if family(found) == TEXTS else None
    if before is None or family(found) == family(before):
        return None
    return pa.float64() if pa.types.is_decimal(before) else before


def _try_out(table: Table, name: str, wanted: pa.DataType) -> tuple[int, int, str | None]:
    """How many values of a column can be converted, how many cannot, and an example of the latter."""
    readable, unreadable, example = 0, 0, None
    for batch in table.batches([name], BATCH_ITEMS):
        column = batch.column(0)
        _, unreadable_B = converted(column, wanted)
        readable += len(column) - column.null_count - int(unreadable_B.sum())
        unreadable += int(unreadable_B.sum())
        if example is None and unreadable_B.any():
            example = str(column[int(np.argmax(unreadable_B))].as_py())
    return readable, unreadable, example


def converted(column: pa.Array, wanted: pa.DataType) -> tuple[pa.Array, Mask]:
    """The column in the type `wanted`, and which rows [B] hold a value that cannot be converted; such a value is missing."""
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), wanted), np.zeros(len(column), bool)
    if _is_list(wanted) and _is_list(column.type):
        return _converted_list(column, wanted)
    given = pc.is_valid(column)
    if family(column.type) == TEXTS:
        column = _trimmed(column)
        given = pc.not_equal(column, "").fill_null(False)  # an empty text is a missing value, as in files of text
    result = _CONVERSIONS.get((family(column.type), family(wanted)), _never)(column, wanted)
    return result, pc.and_(given, pc.is_null(result)).to_numpy(zero_copy_only=False)


def _converted_list(column: pa.Array, wanted: pa.DataType) -> tuple[pa.Array, Mask]:
    values, unreadable_V = converted(pc.list_flatten(column), wanted.value_type)
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    mask = pc.is_null(column)
    result = pa.ListArray.from_arrays(pa.array(offsets), values, mask=mask)
    unreadable_B = np.zeros(len(column), bool)
    unreadable_B[np.repeat(np.arange(len(column)), lengths)[unreadable_V]] = True
    return result.cast(wanted), unreadable_B


def _never(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    return pa.nulls(len(column), wanted)


def _text_to_numbers(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    numbers = pc.if_else(pc.match_substring_regex(column, _NUMBER), pc.utf8_ltrim(column, "+"), None).cast(pa.float64())
    if pa.types.is_floating(wanted):
        return numbers.cast(wanted)
    # A code such as 007 is no integer: it would come back as 7.
    integers = pc.if_else(pc.equal(pc.floor(numbers), numbers), numbers, None).cast(pa.int64(), safe=False)
    return pc.if_else(pc.equal(integers.cast(pa.string()), column), integers, None).cast(wanted, safe=False)


def _text_to_truths(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    texts = pc.utf8_lower(column)
    truths = pc.is_in(texts, value_set=pa.array(_TRUE, texts.type))
    return pc.if_else(pc.or_(truths, pc.is_in(texts, value_set=pa.array(_FALSE, texts.type))), truths, None).cast(wanted)


def _text_to_times(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    stamps = parse_times(pc.if_else(pc.equal(column, ""), None, column))
    return (stamps if getattr(wanted, "tz", None) else stamps.cast(pa.timestamp("us"))).cast(wanted, safe=False)


def _numbers_to_text(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    if pa.types.is_integer(column.type):
        return column.cast(pa.string()).cast(wanted)
    numbers = column.cast(pa.float64())
    whole = pc.and_(pc.equal(pc.floor(numbers), numbers), pc.less(pc.abs(numbers), 2.0**53)).fill_null(False)
    integers = pc.if_else(whole, numbers, None).cast(pa.int64(), safe=False).cast(pa.string())
    return integers.cast(wanted)  # a code with a gap in it comes as 7.0; 7.5 is no code


def _truths_to_text(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    return column.cast(pa.string()).cast(wanted)


def _numbers_to_truths(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    numbers = column.cast(pa.float64())
    return pc.if_else(pc.or_(pc.equal(numbers, 0.0), pc.equal(numbers, 1.0)), pc.equal(numbers, 1.0), None).cast(wanted)


def _truths_to_numbers(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    return column.cast(pa.int8()).cast(wanted)


_CONVERSIONS = {
    (TEXTS, NUMBERS): _text_to_numbers,
    (TEXTS, TRUTHS): _text_to_truths,
    (TEXTS, TIMES): _text_to_times,
    (NUMBERS, TEXTS): _numbers_to_text,
    (NUMBERS, TRUTHS): _numbers_to_truths,
    (TRUTHS, TEXTS): _truths_to_text,
    (TRUTHS, NUMBERS): _truths_to_numbers,
}


def _trimmed(column: pa.Array) -> pa.Array:
    """The texts of a column without white space around them. What is not UTF-8 is missing, and a fault of its own."""
    broken_B = undecodable(column)
    texts = pc.if_else(pa.array(~broken_B), column, None) if broken_B.any() else column
    return pc.utf8_trim_whitespace(texts.cast(pa.string()))


def family(kind: pa.DataType) -> str:
    """What a filter can compare a column with."""
    if _is_list(kind):
        return f"lists of {family(kind.value_type)}"
    checks = (
        (pa.types.is_null, MISSING),
        (pa.types.is_boolean, TRUTHS),
        (pa.types.is_string, TEXTS),
        (pa.types.is_large_string, TEXTS),
        (pa.types.is_temporal, TIMES),
    )
    for check, name in checks:
        if check(kind):
            return name
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return NUMBERS if is_number else str(kind)


def _is_list(kind: pa.DataType) -> bool:
    return any(check(kind) for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def changed_columns(now: pa.Schema, served: pa.Schema, names: Iterable[str]) -> list[str]:
    """Of the named columns, those whose values are of another family than in the served release, described."""
    return [
        f"{name!r} holds {family(now.field(name).type)}, in the served release {family(before)}"
        for name in names
        if (before := served_type(served, name)) is not None and family(now.field(name).type) not in (family(before), MISSING)
    ]
