"""Columns of any type as values that JSON has: for the features of items in answers, and for the proof before publishing.

Arrow's own conversion needs pandas for nanoseconds, fails for moments outside the years 1 to 9999, and gives objects that only
some encoders know. Here every value becomes a text, a number, a boolean, a list, an object or null:

- moments: RFC 3339 in UTC, with `Z` if the column has a time zone; dates and times of day likewise, durations as ISO 8601. What
  cannot be written so, such as the year 12,000, is the number that the column holds.
- decimals: numbers, as near as a double can be.
- binary: base64. UUIDs: their usual text. Maps: lists of pairs.
"""

import base64
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from twotower.errors import DataError

_PER_SECOND: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EPOCH, _DAY_MS = datetime(1970, 1, 1, tzinfo=UTC), 86_400_000
_ROWS_PROVEN_AT_ONCE = 65_536

Json = Any  # None, bool, int, float, str, list or dict of these


def json_rows(table: pa.Table) -> list[dict[str, Json]]:
    """The rows of a table as objects of JSON."""
    columns = [json_values(column) for column in table.columns]
    if not columns:
        return [{} for _ in range(len(table))]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def prove_json(table: pa.Table) -> None:
    """DataError that names the first column with a value that an answer could not hold."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            column.validate(full=True)  # among others, that texts are UTF-8
            if not _is_plain(column.type):
                for start in range(0, len(column), _ROWS_PROVEN_AT_ONCE):
                    json_values(column.slice(start, _ROWS_PROVEN_AT_ONCE))
        except (ValueError, TypeError, OverflowError, pa.ArrowException) as error:
            raise DataError(f"items have column {name!r} of type {column.type}, which answers cannot show: {error}") from error


def json_values(column: pa.ChunkedArray | pa.Array) -> list[Json]:
    """The values of a column, null as None."""
    if isinstance(column, pa.ChunkedArray):
        return [value for chunk in column.chunks for value in json_values(chunk)]
    kind = column.type
    if _is_plain(kind):
        values: list[Json] = column.to_pylist()
        return values
    if isinstance(kind, pa.BaseExtensionType):
        return _each(column, str) if kind.extension_name == "arrow.uuid" else json_values(column.storage)
    if pa.types.is_dictionary(kind):
        return json_values(column.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return json_values(pc.run_end_decode(column))
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        return _moments(column)
    if pa.types.is_struct(kind):
        return _objects(column)
    if pa.types.is_map(kind):
        return [_pairs(scalar.values) if scalar.is_valid else None for scalar in column]
    if hasattr(kind, "value_type"):
        return [json_values(scalar.values) if scalar.is_valid else None for scalar in column]
    return _each(column, _simple)


def _is_plain(kind: pa.DataType) -> bool:
    """Whether Arrow's own conversion gives what JSON has."""
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    is_number = pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _is_plain(kind.value_type)
    return bool(is_text or is_number or pa.types.is_boolean(kind) or pa.types.is_null(kind))


def _each(column: pa.Array, convert: Callable[[Any], Json]) -> list[Json]:
    return [None if value is None else convert(value) for value in column.to_pylist()]


def _simple(value: Any) -> Json:
    match value:
        case Decimal():
            return int(value) if value == value.to_integral_value() and abs(value) < 2**53 else float(value)
        case bytes():
            return base64.b64encode(value).decode()
        case UUID():
            return str(value)
        case dict():
            return {str(name): _simple(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_simple(inner) for inner in value]
        case None | bool() | int() | str():
            return value
        case _:  # a half-precision float, which is a number of numpy; NaN becomes null in JSON
            return float(value) if not math.isnan(float(value)) else None


def _objects(column: pa.Array) -> list[Json]:
    names = [column.type.field(place).name for place in range(column.type.num_fields)]
    columns = [json_values(field) for field in column.flatten()]
    is_there = column.is_valid().to_pylist()
    return [dict(zip(names, row, strict=True)) if there else None for there, *row in zip(is_there, *columns, strict=True)]


def _pairs(entries: pa.StructArray) -> list[Json]:
    keys, values = entries.flatten()
    return [[key, value] for key, value in zip(json_values(keys), json_values(values), strict=True)]


def _moments(column: pa.Array) -> list[Json]:
    kind = column.type
    is_short = pa.types.is_date32(kind) or pa.types.is_time32(kind)
    whole: list[int | None] = column.cast(pa.int32() if is_short else pa.int64()).to_pylist()
    form: Callable[[int, int, int], str]
    if pa.types.is_date(kind):
        form, per_whole, zone = _date, 1 if is_short else _DAY_MS, ""
    else:
        form = _duration if pa.types.is_duration(kind) else _time_of_day if pa.types.is_time(kind) else _timestamp
        per_whole, zone = _PER_SECOND[kind.unit], "Z" if getattr(kind, "tz", None) else ""

    def write(value: int) -> Json:
        try:
            return form(*divmod(value, per_whole), per_whole) + zone
        except OverflowError:  # outside the years 1 to 9999
            return value

    return [None if value is None else write(value) for value in whole]


def _date(days: int, rest: int, per_day: int) -> str:  # noqa: ARG001 # a date has no rest
    return (_EPOCH + timedelta(days=days)).date().isoformat()


def _timestamp(seconds: int, rest: int, per_second: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat() + _fraction(rest, per_second)


def _time_of_day(seconds: int, rest: int, per_second: int) -> str:
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{_fraction(rest, per_second)}"


def _duration(seconds: int, rest: int, per_second: int) -> str:
    sign, (seconds, rest) = ("-", divmod(-seconds * per_second - rest, per_second)) if seconds < 0 else ("", (seconds, rest))
    return f"{sign}PT{seconds}{_fraction(rest, per_second)}S"


def _fraction(rest: int, per_second: int) -> str:
    """Six digits, or nine where nanoseconds need them; none for a whole second."""
    if not rest:
        return ""
    nanoseconds = rest * 10**9 // per_second
    return f".{nanoseconds:09d}" if nanoseconds % 1000 else f".{nanoseconds // 1000:06d}"
