"""Columns of every type are read as the same plain values."""

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest

from twotower.errors import DataError
from twotower.tables.plain import INSTANT, MOMENT, WHOLE, as_plain, plain_type, unified_type, whole_texts

NOON = datetime(2026, 1, 5, 12)
UTC_NOON = NOON.replace(tzinfo=ZoneInfo("UTC"))
ONE = UUID("00112233-4455-6677-8899-aabbccddeeff")
LISTS = [[1, 2], None, [], [3, None]]
LIST_TYPES = [pa.list_, pa.large_list, pa.list_view, pa.large_list_view]


def read(column: pa.Array) -> pa.Array:
    kind = plain_type(column.type)
    assert kind is not None
    plain = as_plain(column, kind)
    assert plain.type == kind
    plain.validate(full=True)
    return plain


@pytest.mark.parametrize("kind", [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32()], ids=str)
def test_integers_of_any_width_are_int64(kind: pa.DataType) -> None:
    assert read(pa.array([1, None], kind)).equals(pa.array([1, None], pa.int64()))


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3)],
    ids=str,
)
def test_text_and_bytes_of_any_kind_are_strings(kind: pa.DataType) -> None:
    assert read(pa.array([b"abc", None], pa.binary()).cast(kind)).equals(pa.array(["abc", None]))


@pytest.mark.parametrize("make", [pa.decimal32, pa.decimal64, pa.decimal128, pa.decimal256])
def test_decimals_are_floats_and_whole_ones_integers(make: Any) -> None:
    assert read(pa.array([Decimal("9.99"), None], make(9, 2))).to_pylist() == [9.99, None]
    assert read(pa.array([7, None], pa.int32()).cast(pa.decimal128(10, 0)).cast(make(9, 0))).equals(pa.array([7, None]))


def test_whole_numbers_of_many_digits_keep_them_all() -> None:
    digits = "9" * 38
    assert read(pa.array([Decimal(digits)], WHOLE)).cast(pa.string()).to_pylist() == [digits]
    assert read(pa.array([2**64 - 1], pa.uint64())).to_pylist() == [2**64 - 1]


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32()], ids=str)
def test_short_floats_are_single_floats(kind: pa.DataType) -> None:
    assert read(pa.array([1.5, None], kind)).equals(pa.array([1.5, None], pa.float32()))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin", "America/New_York", "+02:00"])
def test_timestamps_of_any_unit_and_zone_are_microseconds(unit: str, zone: str | None) -> None:
    given = pa.array([UTC_NOON if zone else NOON, None], pa.timestamp(unit, zone))
    assert read(given).to_pylist() == [UTC_NOON if zone else NOON, None]


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("us")], ids=str)
def test_a_moment_beyond_the_years_that_python_knows_becomes_the_last_one(kind: pa.DataType) -> None:
    column = pa.array([2**61, -(2**61)], pa.int64()).view(kind)
    assert [moment.year for moment in read(column).to_pylist()] == [9999, 1]


def test_dates_beyond_the_years_that_python_knows_become_the_last_one() -> None:
    assert read(pa.array([2**30], pa.int32()).view(pa.date32())).to_pylist() == [date(9999, 12, 31)]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([NOON.date()], pa.date32()), [NOON.date()]),
        (pa.array([NOON.date()], pa.date64()), [NOON.date()]),
        (pa.array([time(9, 30)], pa.time32("s")), ["09:30:00"]),
        (pa.array([timedelta(minutes=5)], pa.duration("ms")), [300.0]),
        (pa.array([True, None]), [True, None]),
        (pa.nulls(2), [None, None]),
        (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
        (pa.array([7, None]).dictionary_encode(), [7, None]),
        (pa.array([ONE.bytes, None, ONE.bytes], pa.uuid()), [str(ONE), None, str(ONE)]),
        (pa.array([ONE.bytes, None, ONE.bytes], pa.uuid()).slice(1), [None, str(ONE)]),
        (pa.array(['{"a": 1}'], pa.json_()), ['{"a": 1}']),
        (pa.array([1, 0], pa.bool8()), [True, False]),
        (pa.RunEndEncodedArray.from_arrays([2], ["a"]), ["a", "a"]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else None,
)
def test_other_types_are_what_they_stand_for(column: pa.Array, expected: list[object]) -> None:
    assert read(column).to_pylist() == expected


@pytest.mark.parametrize("make", LIST_TYPES)
def test_lists_of_any_kind_are_lists(make: Any) -> None:
    assert read(pa.array(LISTS, make(pa.int32()))).equals(pa.array(LISTS, pa.list_(pa.int64())))
    assert read(pa.array(LISTS, make(pa.int32())).slice(1)).to_pylist() == LISTS[1:]


@pytest.mark.parametrize("make", LIST_TYPES)
def test_a_list_column_of_one_row_is_valid(make: Any) -> None:
    assert read(pa.array([[1.0, 2.0]], make(pa.float32()))).to_pylist() == [[1.0, 2.0]]


def test_a_missing_list_of_fixed_size_leaves_no_hole() -> None:
    plain = read(pa.array([[1, 2], None, [3, 4]], pa.list_(pa.float16(), 2)))
    assert plain.to_pylist() == [[1.0, 2.0], None, [3.0, 4.0]]
    assert plain.offsets.to_pylist() == [0, 2, 2, 4]


def test_a_list_of_categories_holds_texts() -> None:
    kind = pa.list_(pa.dictionary(pa.int32(), pa.string()))
    assert read(pa.array([["a", "b"], None, ["a"]], kind)).to_pylist() == [["a", "b"], None, ["a"]]


@pytest.mark.parametrize(
    "kind",
    [
        pa.struct({"a": pa.int64()}),
        pa.map_(pa.string(), pa.string()),
        pa.list_(pa.struct({"a": pa.int64()})),
        pa.list_(pa.list_(pa.int64())),
        pa.dense_union([pa.field("a", pa.int64())]),
        pa.month_day_nano_interval(),
    ],
    ids=str,
)
def test_nested_types_have_no_plain_type(kind: pa.DataType) -> None:
    assert plain_type(kind) is None


@pytest.mark.parametrize(
    ("a", "b", "both"),
    [
        (pa.null(), pa.string(), pa.string()),
        (pa.int64(), pa.uint64(), WHOLE),
        (pa.int64(), WHOLE, WHOLE),
        (pa.int64(), pa.float64(), pa.float64()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.string(), pa.int64(), pa.string()),
        (pa.string(), pa.float64(), pa.string()),
        (MOMENT, INSTANT, INSTANT),
        (pa.date32(), MOMENT, MOMENT),
        (pa.date32(), INSTANT, INSTANT),
        (pa.list_(pa.null()), pa.list_(pa.string()), pa.list_(pa.string())),
        (pa.list_(pa.float32()), pa.list_(pa.float64()), pa.list_(pa.float64())),
        (pa.bool_(), pa.int64(), None),
        (pa.bool_(), pa.string(), None),
        (pa.int64(), MOMENT, None),
        (pa.string(), MOMENT, None),
        (pa.string(), pa.list_(pa.string()), None),
    ],
    ids=str,
)
def test_two_types_have_one_that_holds_both_or_none(a: pa.DataType, b: pa.DataType, both: pa.DataType | None) -> None:
    assert unified_type(a, b) == both
    assert unified_type(b, a) == both


@pytest.mark.parametrize(
    ("column", "target", "expected"),
    [
        (pa.array([3, None]), pa.float64(), [3.0, None]),
        (pa.array([7, None]), pa.string(), ["7", None]),
        (pa.array([4006381330000.0, float("nan"), None]), pa.string(), ["4006381330000", None, None]),
        (pa.array([2**64 - 1], pa.uint64()), WHOLE, [Decimal(2**64 - 1)]),
        (pa.array([NOON.date()]), INSTANT, [datetime(2026, 1, 5, tzinfo=ZoneInfo("UTC"))]),
        (pa.array([NOON], MOMENT), INSTANT, [UTC_NOON]),
        (pa.nulls(1), pa.list_(pa.string()), [None]),
    ],
    ids=str,
)
def test_a_column_takes_the_type_of_the_other_files(column: pa.Array, target: pa.DataType, expected: list[object]) -> None:
    plain = as_plain(column, target)
    plain.validate(full=True)
    assert plain.to_pylist() == expected


@pytest.mark.parametrize(
    ("column", "target"),
    [
        (pa.array([2**53 + 1]), pa.float64()),
        (pa.array([2.5]), pa.string()),
        (pa.array([2.0**60]), pa.string()),
        (pa.array([float("inf")]), pa.string()),
    ],
    ids=str,
)
def test_what_would_lose_something_is_refused(column: pa.Array, target: pa.DataType) -> None:
    with pytest.raises(DataError):
        as_plain(column, target)


def test_whole_floats_are_text_without_a_fraction() -> None:
    assert whole_texts(pa.array([12.0, None, float("nan")])).to_pylist() == ["12", None, None]
