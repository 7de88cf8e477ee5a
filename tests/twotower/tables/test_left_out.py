"""Rows that are left out are counted; a fault of most rows is the column's."""

from pathlib import Path

import pytest

from twotower.errors import DataError
from twotower.tables.left_out import LeftOut, Reason


def test_each_reason_has_its_count_and_its_first_example() -> None:
    left_out = LeftOut(num_rows=10)
    left_out.add("ts", "no time", 1)
    left_out.add("user", "too long", 2, "'xx'")
    left_out.add("user", "too long", 3, "'yy'")
    left_out.add("user", "nothing", 0)
    assert left_out.reasons == (Reason(5, "too long (such as 'xx')"), Reason(1, "no time"))


def test_a_note_is_said_once_and_before_the_rows() -> None:
    left_out = LeftOut(num_rows=10)
    left_out.add("ts", "no time", 1)
    left_out.note("ts is read as epoch seconds")
    left_out.note("ts is read as epoch seconds")
    assert list(left_out.lines("events")) == ["ts is read as epoch seconds", "1 events left out: no time"]


@pytest.mark.parametrize(("count", "refused"), [(5, False), (6, True)])
def test_a_fault_of_more_than_half_of_the_rows_refuses_the_file(count: int, refused: bool) -> None:
    left_out = LeftOut(num_rows=10)
    left_out.add("ts", "no time", count - 1, advice="fill it in")
    left_out.add("ts", "text", 1, "'x'", advice="write times")
    if not refused:
        left_out.require_sound(Path("log"))
        return
    with pytest.raises(DataError, match="log: 6 of 10 rows cannot be used, because no time; fill it in"):
        left_out.require_sound(Path("log"))


def test_a_fault_without_advice_refuses_nothing() -> None:
    left_out = LeftOut(num_rows=10)
    left_out.add("user", "is missing", 9)
    left_out.require_sound(Path("log"))
