"""The plain types that every column is read as, whatever tool wrote it, and the conversion of arrays to them.

| a file holds                                        | it is read as                                                  |
|-----------------------------------------------------|----------------------------------------------------------------|
| integers of any width                               | int64; uint64 stays                                            |
| half, single, double floats                         | float32 for the first two, float64                             |
| decimals                                            | float64; whole ones int64, or decimal128(38, 0) from 19 digits |
| text and bytes of any kind, time of day, UUID       | string; a UUID in its usual form with dashes                   |
| timestamps of any unit                              | timestamp[us]; in UTC where the file names a zone              |
| dates                                               | date32                                                         |
| durations                                           | float64, in seconds                                            |
| dictionaries (categoricals, enums), extension types | what their values are read as                                  |
| lists, large lists, fixed-size lists, list views    | list of the plain type of their values                         |
| booleans, a column of nulls only                    | the same                                                       |

Structs, maps, unions and lists of them have no plain type.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from twotower.errors import DataError

MOMENT, INSTANT = pa.timestamp("us"), pa.timestamp("us", "UTC")
WHOLE = pa.decimal128(38, 0)
EXACT = 2**53  # every whole number up to here is a float64
_INT64_DIGITS = 18
_MICRO = 10**6
_YEARS_US = (-62_135_596_800 * _MICRO, 253_402_300_799 * _MICRO)  # year 1 to the last second of 9999
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_HEX = np.frombuffer(bytes(range(256)).hex().encode(), np.uint8).reshape(256, 2)
_UUID_DIGITS = np.flatnonzero(np.frombuffer(b"00000000-0000-0000-0000-000000000000", np.uint8) != ord("-"))


def plain_type(kind: pa.DataType) -> pa.DataType | None:
    """The plain type of a column of this type; None when it has none."""
    if isinstance(kind, pa.BaseExtensionType):
        names = {"arrow.uuid": pa.string(), "arrow.bool8": pa.bool_()}
        return names.get(kind.extension_name) or plain_type(kind.storage_type)
    if pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if _is_list(kind):
        values = plain_type(kind.value_type)
        return None if values is None or _is_list(values) else pa.list_(values)
    return next((plain(kind) for check, plain in _PLAIN if check(kind)), None)


def _plain_decimal(kind: pa.DataType) -> pa.DataType:
    if kind.scale:
        return pa.float64()
    return pa.int64() if kind.precision <= _INT64_DIGITS else WHOLE


def _is_list(kind: pa.DataType) -> bool:
    checks = (pt.is_list, pt.is_large_list, pt.is_fixed_size_list, pt.is_list_view, pt.is_large_list_view)
    return any(check(kind) for check in checks)


def _is_text(kind: pa.DataType) -> bool:
    texts = (pt.is_string, pt.is_large_string, pt.is_string_view)
    return any(check(kind) for check in (*texts, pt.is_binary, pt.is_large_binary, pt.is_binary_view, pt.is_fixed_size_binary))


_PLAIN: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.DataType], pa.DataType]], ...] = (
    (pt.is_null, lambda kind: kind),
    (pt.is_boolean, lambda kind: kind),
    (pt.is_uint64, lambda kind: kind),
    (pt.is_integer, lambda _: pa.int64()),
    (pt.is_float64, lambda kind: kind),
    (pt.is_floating, lambda _: pa.float32()),
    (pt.is_decimal, _plain_decimal),
    (_is_text, lambda _: pa.string()),
    (pt.is_timestamp, lambda kind: INSTANT if kind.tz else MOMENT),
    (pt.is_date, lambda _: pa.date32()),
    (pt.is_time, lambda _: pa.string()),
    (pt.is_duration, lambda _: pa.float64()),
)


def unified_type(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """The plain type that holds the values of both plain types without loss; None when there is none.

    Text holds whole numbers, so that ids may be text in one file and numbers in another. A float64 holds an integer, and text a
    float, only when the value fits: `as_plain` checks it.
    """
    if a == b or pt.is_null(b):
        return a
    if pt.is_null(a):
        return b
    if _is_list(a) and _is_list(b):
        values = unified_type(a.value_type, b.value_type)
        return None if values is None else pa.list_(values)
    if (is_number(a) or pt.is_string(a)) and (is_number(b) or pt.is_string(b)):
        if pt.is_string(a) or pt.is_string(b):
            return pa.string()
        return pa.float64() if pt.is_floating(a) or pt.is_floating(b) else WHOLE
    if _is_time(a) and _is_time(b):
        return INSTANT if INSTANT in (a, b) else MOMENT
    return None


def is_number(kind: pa.DataType | None) -> bool:
    """Whether a plain type is one of numbers."""
    return kind is not None and bool(pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind))


def _is_time(kind: pa.DataType) -> bool:
    return bool(pt.is_timestamp(kind) or pt.is_date(kind))


def as_plain(values: pa.Array, target: pa.DataType) -> pa.Array:
    """The array as the plain type `target`. DataError when a value cannot be held, such as 2^53 + 1 by a float64."""
    kind = values.type
    if pt.is_timestamp(target) and _is_time(kind):
        return _as_time(values, target)
    if pt.is_date(target) and _is_time(kind):
        return _as_time(values, MOMENT).cast(target)
    if kind == target:
        return values
    if isinstance(kind, pa.BaseExtensionType):
        is_uuid = kind.extension_name == "arrow.uuid"
        return uuid_texts(values.storage) if is_uuid else as_plain(values.storage, target)
    if pt.is_dictionary(kind):
        return as_plain(values.dictionary_decode(), target)
    if pt.is_run_end_encoded(kind):
        return as_plain(pc.run_end_decode(values), target)
    if pt.is_null(kind):
        return pa.nulls(len(values), target)
    if _is_list(kind):
        return _as_list(values, target)
    if pt.is_string(target):
        return _as_text(values)
    if pt.is_duration(kind):
        return pc.divide(values.cast(pa.int64()).cast(pa.float64(), safe=False), float(_PER_SECOND[kind.unit]))
    if pt.is_float64(target) and pt.is_integer(kind):
        return _exact(values).cast(target, safe=False)
    if pt.is_decimal32(kind):  # pyarrow 26 casts none of them to int64 (findings/pyarrow_decimal32_to_int64.sh)
        return as_plain(values.cast(pa.decimal128(kind.precision, kind.scale)), target)
    try:
        return values.cast(target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(str(error)) from error


def _as_list(values: pa.Array, target: pa.DataType) -> pa.Array:
    """A list array built anew from lengths and values, because pyarrow 26 casts a list view to an invalid list."""
    lengths = pc.list_value_length(values)
    ends = np.cumsum(lengths.fill_null(0).to_numpy(zero_copy_only=False), dtype=np.int64)
    if len(ends) and ends[-1] > np.iinfo(np.int32).max:
        raise DataError("a batch holds more than 2^31 values of lists: write smaller row groups")
    offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
    missing = lengths.is_null() if lengths.null_count else None
    return pa.ListArray.from_arrays(offsets, as_plain(pc.list_flatten(values), target.value_type), type=target, mask=missing)


def _as_text(values: pa.Array) -> pa.Array:
    """Bytes are taken as UTF-8 without a check: who reads a column finds the rows that are not."""
    if _is_text(values.type):
        return values.cast(pa.binary()).view(pa.string())
    return whole_texts(values) if pt.is_floating(values.type) else values.cast(pa.string())


def whole_texts(values: pa.Array) -> pa.Array:
    """Whole floats as text without a fraction, and NaN as missing. DataError for a float that `is_whole` does not take."""
    wrong = pc.filter(values, pc.invert(is_whole(values)))
    if len(wrong):
        raise DataError(f"{wrong[0].as_py()!r} {no_whole_number(values.type)}")
    return pc.if_else(pc.is_nan(values), None, values).cast(pa.int64()).cast(pa.string())


def is_whole(values: pa.Array) -> pa.Array:
    """Which floats are NaN or a whole number that is exact, because all whole numbers up to it are. Missing stays missing."""
    limit = float(_exact_up_to(values.type))
    return pc.or_(pc.is_nan(values), pc.and_(pc.equal(pc.floor(values), values), pc.less_equal(pc.abs(values), limit)))


def no_whole_number(kind: pa.DataType) -> str:
    """What is said of a float that `is_whole` does not take."""
    return f"is no whole number up to 2^{_exact_up_to(kind).bit_length() - 1}"


def _exact_up_to(kind: pa.DataType) -> int:
    return EXACT if pt.is_float64(kind) else 2**24


def _exact(values: pa.Array) -> pa.Array:
    reach = pc.min_max(values)
    for value in (reach["min"].as_py(), reach["max"].as_py()):
        if value is not None and abs(value) > EXACT:
            raise DataError(f"{value} is beyond 2^53, so a float64 would change it")
    return values


def _as_time(values: pa.Array, target: pa.DataType) -> pa.Array:
    """Microseconds from the years 1 to 9999, because Python has no others; a moment beyond them becomes the first or last one."""
    if pt.is_date(values.type):
        values = values.cast(pa.timestamp("s"))
    per_second = _PER_SECOND[values.type.unit]
    counts = values.view(pa.int64())
    if per_second > _MICRO:
        return pc.divide(counts, per_second // _MICRO).view(target)
    reach = pc.min_max(counts)
    first, last = (bound * per_second // _MICRO for bound in _YEARS_US)
    if len(values) > values.null_count and not first <= reach["min"].as_py() <= reach["max"].as_py() <= last:
        counts = pc.max_element_wise(pc.min_element_wise(counts, last, skip_nulls=False), first, skip_nulls=False)
    return (counts if per_second == _MICRO else pc.multiply(counts, _MICRO // per_second)).view(target)


def uuid_texts(values: pa.Array) -> pa.Array:
    """UUIDs, given as 16 bytes each, as text with dashes."""
    raw: npt.NDArray[np.uint8] = np.frombuffer(values.buffers()[1] or b"", np.uint8)
    raw = raw[values.offset * 16 : (values.offset + len(values)) * 16].reshape(-1, 16)
    letters = np.full((len(raw), 36), ord("-"), np.uint8)
    letters[:, _UUID_DIGITS] = _HEX[raw].reshape(-1, 32)
    offsets = np.arange(len(raw) + 1, dtype=np.int32) * 36
    texts = pa.Array.from_buffers(pa.string(), len(raw), [None, pa.py_buffer(offsets), pa.py_buffer(letters)])
    return pc.if_else(values.is_valid(), texts, None) if values.null_count else texts
