"""Every type that an item table can have becomes JSON, the same on every machine."""

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from twotower.data.json_values import json_rows, json_values, prove_json
from twotower.errors import DataError

NOON_S = 1_780_000_000  # 2026-05-28 20:26:40
FINE = NOON_S * 10**9 + 1


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, None], pa.int8()), [1, None]),
        (pa.array([2**64 - 1], pa.uint64()), [2**64 - 1]),
        (pa.array([0.5], pa.float16()), [0.5]),
        (pa.array([True, None]), [True, None]),
        (pa.array(["é"], pa.large_string()), ["é"]),
        (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
        (pa.array([b"\xff\x00"]), ["/wA="]),
        (pa.array([None, None]), [None, None]),
        (pa.array([NOON_S], pa.timestamp("s")), ["2026-05-28T20:26:40"]),
        (pa.array([NOON_S * 1000 + 5], pa.timestamp("ms", "UTC")), ["2026-05-28T20:26:40.005000Z"]),
        (pa.array([NOON_S * 10**6], pa.timestamp("us", "Europe/Berlin")), ["2026-05-28T20:26:40Z"]),
        (pa.array([FINE, None], pa.timestamp("ns")), ["2026-05-28T20:26:40.000000001", None]),
        (pa.array([FINE - 1], pa.timestamp("ns", "UTC")), ["2026-05-28T20:26:40Z"]),
        (pa.array([-1], pa.timestamp("ms")), ["1969-12-31T23:59:59.999000"]),
        (pa.array([10**13], pa.timestamp("s")), [10**13]),  # the year 318,857
        (pa.array([dt.date(2026, 5, 28)]), ["2026-05-28"]),
        (pa.array([86_400_000, None], pa.date64()), ["1970-01-02", None]),
        (pa.array([10**8], pa.int32()).cast(pa.date32()), [10**8]),
        (pa.array([3_723], pa.time32("s")), ["01:02:03"]),
        (pa.array([3_723 * 10**9 + 7], pa.time64("ns")), ["01:02:03.000000007"]),
        (pa.array([1500], pa.duration("ms")), ["PT1.500000S"]),
        (pa.array([-1500], pa.duration("ms")), ["-PT1.500000S"]),
        (pa.array([-1], pa.duration("ns")), ["-PT0.000000001S"]),
        (pa.array([Decimal("12.50"), Decimal("3.00"), None]), [12.5, 3, None]),
        (pa.array([Decimal(10**60)], pa.decimal256(76, 0)), [1e60]),
        (pa.array([[FINE], [], None], pa.list_(pa.timestamp("ns"))), [["2026-05-28T20:26:40.000000001"], [], None]),
        (pa.array([[1, 2]], pa.list_(pa.int64(), 2)), [[1, 2]]),
        (
            pa.array([{"a": FINE, "b": None}, None], pa.struct({"a": pa.duration("ns"), "b": pa.int8()})),
            [{"a": "PT1780000000.000000001S", "b": None}, None],
        ),
        (pa.array([[("k", b"a")], None], pa.map_(pa.string(), pa.binary())), [[["k", "YQ=="]], None]),
        (pa.array([[1, 2], None], pa.list_view(pa.int8())), [[1, 2], None]),
        (pa.array(["x"], pa.string_view()), ["x"]),
        (pa.RunEndEncodedArray.from_arrays([2, 3], ["a", "b"]), ["a", "a", "b"]),
        (pa.array([b"\x01" * 16], pa.uuid()), ["01010101-0101-0101-0101-010101010101"]),
        (pa.array([pa.MonthDayNano([1, 2, 3])]), [[1, 2, 3]]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_every_type_has_a_form_in_json(column: pa.Array, expected: list[Any]) -> None:
    assert json_values(column) == expected
    assert json_values(pa.concat_arrays([column, column]).slice(len(column))) == expected, "a slice begins elsewhere"
    assert json.loads(msgspec.json.encode(json_values(column))) == expected
    prove_json(pa.table({"feature": column}))


def test_what_is_no_number_is_null() -> None:
    assert msgspec.json.encode(json_values(pa.array([float("nan"), float("inf"), 1.5]))) == b"[null,null,1.5]"


def test_rows_are_objects_by_the_names_of_the_columns() -> None:
    table = pa.table({"a": [1, 2], "b": pa.array([FINE, None], pa.timestamp("ns"))})
    assert json_rows(table) == [{"a": 1, "b": "2026-05-28T20:26:40.000000001"}, {"a": 2, "b": None}]
    assert json_rows(table.select([])) == [{}, {}]
    assert json_rows(table.slice(0, 0)) == []


def test_a_column_that_no_answer_can_show_is_named() -> None:
    broken = pa.array([b"\xff"]).view(pa.string())
    with pytest.raises(DataError, match="column 'title' of type string, which answers cannot show: "):
        prove_json(pa.table({"group": ["a"], "title": broken}))
