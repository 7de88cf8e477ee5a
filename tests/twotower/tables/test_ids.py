"""Ids are text; a faulty one is its row's fault."""

from decimal import Decimal

import pyarrow as pa
import pytest

from twotower.errors import DataError
from twotower.tables.ids import id_texts, ids, read_ids, sound_ids, undecodable
from twotower.tables.left_out import LeftOut


def bytes_as_text(*values: bytes) -> pa.Array:
    return pa.array(values, pa.binary()).view(pa.string())


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["7", None]),
        pa.array([7, None]),
        pa.array([7, None], pa.uint64()),
        pa.array([7.0, float("nan")]),
        pa.array([Decimal(7), None], pa.decimal128(38, 0)),
    ],
    ids=lambda column: str(column.type),
)
def test_ids_are_text_whatever_holds_them(column: pa.Array) -> None:
    texts, faults = read_ids(column, "user_id")
    assert (texts.to_pylist(), faults) == (["7", ""], [])


def test_long_undecodable_and_fractional_ids_are_counted_with_an_example() -> None:
    left_out = LeftOut()
    texts = sound_ids(bytes_as_text(b"a", b"x" * 200, b"\xff\xfe", b""), "user_id", left_out)
    assert texts.to_pylist() == ["a", "", "", ""]
    sound_ids(pa.array([1.5, 2.0]), "item_id", left_out)
    assert sorted(left_out.lines("events")) == [
        "1 events left out: the id in column 'item_id' is no whole number up to 2^53 (such as '1.5')",
        f"1 events left out: the id in column 'user_id' is longer than 128 bytes (such as '{'x' * 37}...')",
        "1 events left out: the id in column 'user_id' is missing",
        "1 events left out: the id in column 'user_id' is not UTF-8 (such as '\ufffd\ufffd')",
    ]


def test_a_single_float_that_may_have_been_rounded_is_no_id() -> None:
    texts, faults = read_ids(pa.array([2.0**24, 2.0**25], pa.float32()), "user_id")
    assert texts.to_pylist() == ["16777216", ""]
    assert [(fault, rows.tolist()) for fault, rows in faults] == [("is no whole number up to 2^24", [False, True])]


def test_where_every_id_must_be_sound_a_faulty_one_is_an_error() -> None:
    with pytest.raises(DataError, match="'sku' holds an id that is longer than 128 bytes"):
        ids(pa.array(["x" * 129]), "sku")


def test_a_column_of_lists_holds_no_ids() -> None:
    with pytest.raises(DataError, match="ids are text or whole numbers"):
        read_ids(pa.array([["a"]]), "sku")


def test_texts_that_are_not_utf_8_are_found_in_columns_and_lists() -> None:
    texts = bytes_as_text(b"ok", b"\xff", "café".encode())
    assert undecodable(texts).tolist() == [False, True, False]
    assert undecodable(pa.ListArray.from_arrays([0, 1, 3], texts)).tolist() == [False, True]
    assert id_texts(texts) == ["ok", "\ufffd", "café"]
