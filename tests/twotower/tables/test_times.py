"""A column of times has one unit, which is found and said; a faulty time is its row's fault."""

from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from twotower.errors import DataError
from twotower.tables.left_out import LeftOut
from twotower.tables.times import LATEST_MS, TimeColumn

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
NOON_MS = 1_767_614_400_000
MIDNIGHT_MS = NOON_MS - 43_200_000


def read(*columns: pa.Array) -> tuple[list[int], list[str]]:
    """The times that are told by files with these columns, and the lines about the other rows."""
    left_out = LeftOut(num_rows=sum(map(len, columns)))
    times, told = TimeColumn("ts", left_out), []
    for number, column in enumerate(columns):
        times.begin(Path(f"part-{number}"))
        times_ms_E, sound_E = times.read(column)
        told += times_ms_E[sound_E].tolist()
    left_out.require_sound(Path("log"))
    return told, list(left_out.lines("events"))


@pytest.mark.parametrize(
    ("column", "unit"),
    [
        (pa.array([NOON_MS // 1000]), "epoch seconds"),
        (pa.array([NOON_MS]), None),
        (pa.array([NOON_MS * 1000]), "epoch microseconds"),
        (pa.array([NOON_MS * 10**6]), "epoch nanoseconds"),
        (pa.array([NOON_MS / 1000]), "epoch seconds"),
        (pa.array([float(NOON_MS)]), None),
        (pa.array([NOON_MS], pa.uint64()), None),
        (pa.array([NOON_MS]).cast(pa.decimal128(38, 0)), None),
        (pa.array([str(NOON_MS)]), None),
        (pa.array([str(NOON_MS // 1000)]), "epoch seconds"),
        (pa.array(["2026-01-05 07:00:00 -0500"]), None),
        (pa.array([NOON], pa.timestamp("us", "UTC")), None),
    ],
    ids=str,
)
def test_the_unit_of_a_column_is_found_and_said(column: pa.Array, unit: str | None) -> None:
    assert read(column) == ([NOON_MS], [f"column 'ts' is read as {unit}"] if unit else [])


@pytest.mark.parametrize("column", [pa.array([20260105]), pa.array(["20260105"]), pa.array([date(2026, 1, 5)])], ids=str)
def test_dates_are_the_beginning_of_their_day(column: pa.Array) -> None:
    assert read(column)[0] == [MIDNIGHT_MS]


def test_a_nanosecond_before_a_second_is_not_rounded_up() -> None:
    assert read(pa.array([NOON_MS * 10**6 - 1]))[0] == [NOON_MS - 1]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (pa.array([None], pa.int64()), "holds no time"),
        (pa.array([0]), "holds a number that is no time between 1980 and 2100 (such as 0)"),
        (pa.array([NOON_MS // 1000]), f"holds a number that is no time between 1980 and 2100 (such as {NOON_MS // 1000})"),
    ],
    ids=str,
)
def test_a_faulty_number_leaves_out_its_row(bad: pa.Array, why: str) -> None:
    column = pa.concat_arrays([pa.array([NOON_MS] * 3), bad])
    assert read(column) == ([NOON_MS] * 3, [f"1 events left out: column 'ts' {why}"])


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("yesterday", "holds text that is no time (such as 'yesterday')"),
        ("1970-01-01", "holds a time outside 1980 to 2100 (such as '1970-01-01')"),
        ("9999-12-31", "holds a time outside 1980 to 2100 (such as '9999-12-31')"),
        ("", "holds no time"),
    ],
)
def test_a_faulty_text_leaves_out_its_row(bad: str, why: str) -> None:
    column = pa.array(["2026-01-05T12:00:00Z"] * 3 + [bad])
    assert read(column) == ([NOON_MS] * 3, [f"1 events left out: column 'ts' {why}"])


def test_a_timestamp_of_another_age_leaves_out_its_row() -> None:
    column = pa.array([NOON, NOON, NOON.replace(year=9999)], pa.timestamp("us", "UTC"))
    told, lines = read(column)
    assert told == [NOON_MS] * 2
    assert lines == ["1 events left out: column 'ts' holds a time outside 1980 to 2100 (such as 9999-01-05 12:00:00.000000Z)"]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([5, 10]), "no time between 1980 and 2100"),
        (pa.array(["01/05/2026 12:00"]), "'01/05/2026 12:00'"),
        (pa.nulls(2), "no time"),
        (pa.array([True]), "bool"),
    ],
    ids=str,
)
def test_a_fault_of_most_rows_is_the_columns(column: pa.Array, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(column)


def test_single_floats_are_read_with_a_note_that_they_round() -> None:
    told, lines = read(pa.array([NOON_MS / 1000], pa.float32()))
    assert abs(told[0] - NOON_MS) <= 64_000
    assert any("holds single floats" in line for line in lines)


def test_two_units_in_two_files_are_refused_with_both_names() -> None:
    with pytest.raises(DataError, match="epoch milliseconds in part-0 and epoch seconds in part-1"):
        read(pa.array([NOON_MS]), pa.array([NOON_MS // 1000]))


def test_text_in_one_file_and_numbers_in_another_are_both_understood() -> None:
    assert read(pa.array(["2026-01-05T12:00:00Z"]), pa.array([str(NOON_MS)]))[0] == [NOON_MS, NOON_MS]


def test_a_missing_end_is_the_last_moment() -> None:
    left_out = LeftOut(num_rows=3)
    ends_ms, sound = TimeColumn("until", left_out).read_open(
        pa.array([NOON, None, NOON.replace(year=9999)], pa.timestamp("us", "UTC"))
    )
    assert (ends_ms.tolist(), sound.tolist()) == ([NOON_MS, LATEST_MS, LATEST_MS], [True] * 3)
    assert not left_out.reasons
