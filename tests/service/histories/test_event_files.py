"""Events are removed from Parquet files of any kind, and everything else of the files stays."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.histories.event_files import remove_old, remove_user
from twotower.data.schema import EventColumns
from twotower.errors import DataError, EnvironmentProblem

COLUMNS = EventColumns()


def events(users: pa.Array) -> pa.Table:
    times = pa.array([1_700_000_000_000 + n * 86_400_000 for n in range(len(users))], pa.timestamp("ms", "UTC"))
    return pa.table({"user_id": users, "timestamp": times, "price": [float(n) for n in range(len(users))]})


@pytest.mark.parametrize(
    "users",
    [
        pa.array(["7", "8", "7", None, "77"]),
        pa.array([7, 8, 7, None, 77]),
        pa.array(["7", "8", "7", None, "77"]).dictionary_encode(),
        pa.array(["7", "8", "7", None, "77"], pa.large_string()),
    ],
)
def test_a_users_rows_go_and_all_others_stay(tmp_path: Path, users: pa.Array) -> None:
    file = tmp_path / "events.parquet"
    pq.write_table(events(users).replace_schema_metadata({"made by": "the shop"}), file, row_group_size=2, compression="zstd")
    before = pq.read_table(file)
    assert remove_user(file, COLUMNS, "7") == 2
    after = pq.read_table(file)
    assert after.column("price").to_pylist() == [1.0, 3.0, 4.0]
    assert after.schema.equals(before.schema, check_metadata=True)
    assert pq.ParquetFile(file).metadata.row_group(0).column(0).compression == "ZSTD"
    assert [path.name for path in tmp_path.iterdir()] == ["events.parquet"]


def test_a_file_without_the_user_is_not_touched(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pq.write_table(events(pa.array([name, "x"])), tmp_path / name / "part.parquet")
    untouched = (tmp_path / "b" / "part.parquet").stat()
    assert remove_user(tmp_path, COLUMNS, "a") == 1
    assert (tmp_path / "b" / "part.parquet").stat() == untouched


def test_old_events_go_and_those_without_a_time_stay(tmp_path: Path) -> None:
    file = tmp_path / "events.parquet"
    table = events(pa.array(["a", "b", "c"]))
    times = pa.array([1_700_000_000_000, None, 1_700_172_800_000], pa.timestamp("ms", "UTC"))
    pq.write_table(table.set_column(1, "timestamp", times), file)
    assert remove_old(file, COLUMNS, 1_700_172_800_000) == 1
    assert pq.read_table(file).column("user_id").to_pylist() == ["b", "c"]
    assert remove_old(file, COLUMNS, 1_700_172_800_000) == 0


def test_times_as_numbers_and_text_are_read_as_training_reads_them(tmp_path: Path) -> None:
    for times in (pa.array([1_700_000_000, 1_700_172_800]), pa.array(["2023-11-14T22:13:20Z", "2023-11-16T22:13:20Z"])):
        file = tmp_path / "events.parquet"
        pq.write_table(pa.table({"user_id": ["a", "b"], "timestamp": times}), file)
        assert remove_old(file, COLUMNS, 1_700_100_000_000) == 1


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not there"):
        remove_user(tmp_path / "events.parquet", COLUMNS, "a")
    (tmp_path / "events.parquet").write_bytes(b"no parquet")
    with pytest.raises(EnvironmentProblem, match="cannot remove events from"):
        remove_user(tmp_path / "events.parquet", COLUMNS, "a")
    pq.write_table(pa.table({"visitor": ["a"]}), tmp_path / "events.parquet")
    with pytest.raises(DataError, match="has no column 'user_id': name the right --schema"):
        remove_user(tmp_path / "events.parquet", COLUMNS, "a")
