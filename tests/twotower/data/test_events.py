"""The event log is streamed, and bad columns are refused by name."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower.data.events import stream_events
from twotower.data.schema import Constant, EventColumns
from twotower.errors import DataError
from twotower.tables.left_out import LeftOut

COLUMNS = EventColumns()
MOMENT = datetime(2024, 5, 1, tzinfo=UTC)


def write(tmp_path: Path, **changes: object) -> Path:
    columns: dict[str, object] = {"user_id": ["u"], "item_id": ["i"], "timestamp": [MOMENT], "event_type": ["view"]}
    columns |= changes
    path = tmp_path / "events.parquet"
    pq.write_table(pa.table({k: v for k, v in columns.items() if v is not None}), path)
    return path


def test_ids_become_strings_and_times_milliseconds(tmp_path: Path) -> None:
    (batch,) = stream_events(write(tmp_path, user_id=[7]), COLUMNS)
    assert batch.user_ids.to_pylist() == ["7"]
    assert batch.times_ms_E.tolist() == [int(MOMENT.timestamp() * 1000)]


def test_a_directory_of_files_is_one_log(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, user_id=[name])
    batches = list(stream_events(tmp_path, COLUMNS))
    assert sorted(u for b in batches for u in b.user_ids.to_pylist()) == ["a", "b"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_id": None}, "no column 'item_id'"),
        ({"timestamp": [7]}, "no time between 1980 and 2100"),
        ({"timestamp": ["yesterday"]}, "'yesterday'"),
        ({"timestamp": pa.array([None], pa.timestamp("ms"))}, "no time"),
        ({"user_id": [1.5]}, "no whole number"),
        ({"timestamp": pa.array([1], pa.duration("ms"))}, "no time"),
        ({"timestamp": [True]}, "bool"),
        ({"event_type": pa.array([["view"]])}, "'event_type'"),
        ({"item_id": ["x" * 10_000]}, "longer than 128 bytes"),
        ({"user_id": pa.array([["a"]])}, "ids are"),
    ],
)
def test_a_bad_column_is_refused_by_name(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(stream_events(write(tmp_path, **changes), COLUMNS))


def test_a_log_without_a_column_of_types_has_the_constant_of_the_schema(tmp_path: Path) -> None:
    path = write(tmp_path, event_type=None)
    (batch,) = stream_events(path, EventColumns(event_type=Constant(constant="purchase")))
    assert batch.event_types.to_pylist() == ["purchase"]


def test_an_event_from_the_future_is_left_out_and_counted(tmp_path: Path) -> None:
    two = {"user_id": ["u", "u"], "item_id": ["i", "i"], "event_type": ["view", "view"]}
    left_out = LeftOut()
    path = write(tmp_path, **two, timestamp=[MOMENT, datetime(2096, 1, 1, tzinfo=UTC)])
    (batch,) = stream_events(path, COLUMNS, left_out=left_out)
    assert (len(batch), len(batch.user_ids)) == (1, 1)
    assert list(left_out.lines("events")) == ["1 events left out: their time is more than a day in the future"]


def test_a_directory_without_parquet_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no Parquet files"):
        list(stream_events(tmp_path, COLUMNS))


def test_an_empty_log_is_refused(tmp_path: Path) -> None:
    empty = {name: pa.array([], pa.string()) for name in ("user_id", "item_id", "event_type")}
    path = write(tmp_path, **empty, timestamp=pa.array([], pa.timestamp("ms")))
    with pytest.raises(DataError, match="no events"):
        list(stream_events(path, COLUMNS))


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    path.write_text("user,item\n")
    with pytest.raises(DataError, match="Parquet"):
        list(stream_events(path, COLUMNS))
    with pytest.raises(DataError, match="does not exist"):
        list(stream_events(tmp_path / "nowhere", COLUMNS))


GOOD = {"user_id": ["u"] * 4, "item_id": ["i"] * 4, "event_type": ["view"] * 4, "timestamp": [MOMENT] * 4}


@pytest.mark.parametrize(
    ("changes", "num_read", "line"),
    [
        (
            {"timestamp": [MOMENT.replace(year=1970)]},
            4,
            "column 'timestamp' holds a time outside 1980 to 2100 (such as 1970",
        ),
        (
            {"timestamp": [MOMENT.replace(year=9999)]},
            4,
            "column 'timestamp' holds a time outside 1980 to 2100 (such as 9999",
        ),
        ({"timestamp": pa.array([None], pa.timestamp("us", "UTC"))}, 4, "column 'timestamp' holds no time"),
        ({"user_id": ["x" * 200]}, 5, "the id in column 'user_id' is longer than 128 bytes (such as 'xxx"),
        ({"item_id": [b"\xff"]}, 5, "the id in column 'item_id' is not UTF-8"),
        ({"user_id": [None]}, 5, "the id in column 'user_id' is missing"),
    ],
)
def test_a_faulty_row_is_counted_with_an_example_and_the_others_are_read(
    tmp_path: Path, changes: dict[str, object], num_read: int, line: str
) -> None:
    write(tmp_path, **GOOD).rename(tmp_path / "good.parquet")
    write(tmp_path, **changes)
    left_out = LeftOut()
    assert sum(len(batch) for batch in stream_events(tmp_path, COLUMNS, left_out=left_out)) == num_read
    assert len(list(left_out.lines("events"))) == 1
    assert next(left_out.lines("events")).startswith(f"1 events left out: {line}")


def test_a_file_that_lies_in_the_future_yields_no_batch(tmp_path: Path) -> None:
    write(tmp_path, **GOOD).rename(tmp_path / "good.parquet")
    write(tmp_path, timestamp=[datetime(2096, 1, 1, tzinfo=UTC)])
    assert [len(batch) for batch in stream_events(tmp_path, COLUMNS)] == [4]


def test_a_log_without_one_usable_row_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of its 1 events can be used \(1: their time is more than a day in the future\)"):
        list(stream_events(write(tmp_path, timestamp=[datetime(2096, 1, 1, tzinfo=UTC)]), COLUMNS))


def test_a_type_that_is_not_utf_8_is_a_missing_one(tmp_path: Path) -> None:
    (batch,) = stream_events(write(tmp_path, event_type=[b"\xff"]), COLUMNS)
    assert batch.event_types.to_pylist() == ["event"]


def test_the_unit_of_epoch_times_is_said(tmp_path: Path) -> None:
    left_out = LeftOut()
    (batch,) = stream_events(write(tmp_path, timestamp=[int(MOMENT.timestamp())]), COLUMNS, left_out=left_out)
    assert batch.times_ms_E.tolist() == [int(MOMENT.timestamp() * 1000)]
    assert list(left_out.lines("events")) == ["column 'timestamp' is read as epoch seconds"]
