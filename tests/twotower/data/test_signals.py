"""What is announced for items, day by day: worked by hand on four items and a week."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower.data.features import DAY_MS
from twotower.data.schema import SignalColumns, utc_ms
from twotower.data.signals import read_signals, require_signals
from twotower.errors import DataError

ITEMS = pa.array(["ale", "bun", "cod", "dip"])
MAILER = SignalColumns(features=("mailer",))
MONDAY = utc_ms(datetime(2024, 1, 1, tzinfo=UTC))


def at(day: int, hour: int = 0) -> datetime:
    return datetime(2024, 1, day, hour, tzinfo=UTC)


def write(path: Path, *rows: tuple[str, datetime | None, datetime | None, float | None]) -> Path:
    names = ("item_id", "from", "until", "mailer")
    stamp = pa.timestamp("ms", "UTC")
    kinds = (pa.string(), stamp, stamp, pa.float64())
    columns = [pa.array([row[i] for row in rows], kind) for i, kind in enumerate(kinds)]
    pq.write_table(pa.table(columns, names=list(names)), path / "signals.parquet")
    return path / "signals.parquet"


def week(path: Path) -> list[list[float]]:
    """The mailer of each item on each of the seven days from Monday, 1 January 2024."""
    days = read_signals(path, MAILER, ITEMS).daily(MONDAY, DAY_MS, 7)
    table: list[list[float]] = np.stack([values_NS[:, 0] for values_NS in days], axis=1).tolist()
    return table


def test_a_row_holds_from_its_start_until_before_its_end_and_else_nothing_is_announced(tmp_path: Path) -> None:
    announced = write(tmp_path, ("bun", at(2), at(4), 0.5), ("cod", at(6), None, 2.0))
    assert week(announced) == [
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0.5, 0.5, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 2, 2],
        [0, 0, 0, 0, 0, 0, 0],
    ]


def test_a_local_day_of_any_time_zone_is_one_day(tmp_path: Path) -> None:
    """Wednesday, 3 January, in New York (UTC - 5) and in Tokyo (UTC + 9)."""
    announced = write(tmp_path, ("ale", at(3, 5), at(4, 5), 1), ("bun", at(2, 15), at(3, 15), 1))
    assert week(announced)[0] == week(announced)[1] == [0, 0, 1, 0, 0, 0, 0]


def test_an_hour_that_is_nobody_s_noon_counts_for_its_day(tmp_path: Path) -> None:
    announced = write(tmp_path, ("ale", at(3, 18), at(3, 20), 1), ("bun", at(3, 18), at(4, 6), 1), ("cod", at(3, 8), at(3, 9), 1))
    assert week(announced)[:3] == [[0, 0, 1, 0, 0, 0, 0]] * 3


def test_of_overlapping_rows_the_later_counts_while_it_lasts(tmp_path: Path) -> None:
    """Whatever the order of the file; of two that begin together, the lower of the two lines."""
    summer, mailer, correction = ("ale", at(1), None, 0.25), ("ale", at(3), at(5), 1.0), ("ale", at(3), at(4), 0.75)
    for rows in ((summer, mailer, correction), (mailer, correction, summer)):
        assert week(write(tmp_path, *rows))[0] == [0.25, 0.25, 0.75, 1, 0.25, 0.25, 0.25]


def test_what_began_before_the_first_day_still_holds(tmp_path: Path) -> None:
    began = datetime(2023, 11, 1, tzinfo=UTC)
    announced = write(tmp_path, ("ale", began, at(2), 1), ("bun", began, datetime(2023, 12, 1, tzinfo=UTC), 1))
    assert week(announced)[:2] == [[1, 0, 0, 0, 0, 0, 0], [0] * 7]


def test_a_missing_value_is_zero(tmp_path: Path) -> None:
    assert week(write(tmp_path, ("ale", at(1), None, None), ("bun", at(1), None, float("nan")))) == [[0] * 7] * 4


def test_no_rows_means_nothing_is_announced(tmp_path: Path) -> None:
    assert week(write(tmp_path)) == [[0] * 7] * 4


def test_a_release_made_at_night_knows_the_day_it_serves(tmp_path: Path) -> None:
    """On Sunday at 23:00 Monday's mailer counts, and Sunday's no more; rows of other times are not even kept."""
    sunday_night, next_monday = at(7, 23), at(8)
    rows = (("ale", at(1), next_monday, 1.0), ("bun", next_monday, at(15), 1.0), ("cod", at(15), None, 1.0))
    path, now_ms = write(tmp_path, *rows), utc_ms(sunday_night)
    tonight = read_signals(path, MAILER, ITEMS, now_ms, now_ms + DAY_MS)
    assert tonight.day(now_ms)[:, 0].tolist() == [0, 1, 0, 0]
    assert len(tonight.values_RS) == 2
    assert read_signals(path, MAILER, ITEMS).day(now_ms)[:, 0].tolist() == [0, 1, 0, 0]


def test_several_signals_stand_in_the_order_of_the_schema(tmp_path: Path) -> None:
    stamps = pa.array([at(1)], pa.timestamp("us", "UTC"))
    table = pa.table({"sku": ["cod"], "cut": [0.2], "starts": stamps, "mailer": [1], "ends": pa.nulls(1, stamps.type)})
    columns = SignalColumns(item_id="sku", valid_from="starts", valid_until="ends", features=("mailer", "cut"))
    pq.write_table(table, tmp_path / "signals.parquet")
    (values_NS,) = read_signals(tmp_path, columns, ITEMS).daily(MONDAY, DAY_MS, 1)
    np.testing.assert_array_equal(values_NS[2], np.array([1, 0.2], np.float32))


def test_rows_that_say_nothing_are_counted(tmp_path: Path) -> None:
    rows = (("ale", at(2), at(1), 1.0), ("gone", at(1), None, 1.0), ("bun", at(1), None, 1.0))
    report = read_signals(write(tmp_path, *rows), MAILER, ITEMS).report
    assert (report.num_rows, report.unknown_items, report.never_valid) == (3, 1, 1)
    assert [line.split(" signals")[0] for line in report.lines()[1:]] == ["1", "1"]
    assert "gone" in report.lines()[1]


@pytest.mark.parametrize("value", [1e6, -101.0, float("inf")])
def test_values_of_another_size_are_refused_with_what_to_do(tmp_path: Path, value: float) -> None:
    with pytest.raises(DataError, match=r"'mailer'.*Scale the column"):
        read_signals(write(tmp_path, ("ale", at(1), None, value)), MAILER, ITEMS)


def test_a_row_without_a_start_or_an_item_is_left_out(tmp_path: Path) -> None:
    good = [("bun", at(1), None, 1.0)] * 3
    report = read_signals(write(tmp_path, *good, ("ale", None, at(2), 1.0), ("", at(1), None, 1.0)), MAILER, ITEMS).report
    assert report.lines() == [
        "5 rows of signals",
        "1 signals left out: column 'from' holds no time",
        "1 signals left out: the id in column 'item_id' is missing",
    ]


def test_a_file_without_starts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'from'.*no time"):
        read_signals(write(tmp_path, ("ale", None, at(2), 1.0)), MAILER, ITEMS)


def test_schema_and_file_come_together(tmp_path: Path) -> None:
    require_signals(MAILER, tmp_path)
    require_signals(None, None)
    with pytest.raises(DataError, match=r"mailer.*--signals"):
        require_signals(MAILER, None)
    with pytest.raises(DataError, match=r"\[signals\].*leave --signals out"):
        require_signals(None, tmp_path)
