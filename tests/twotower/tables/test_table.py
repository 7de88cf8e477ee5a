"""Files and directories of them are one table, and what cannot be read is named."""

import struct
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower.errors import DataError
from twotower.tables.table import Table, open_table

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def write(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def directory(path: Path, *files: dict[str, Any]) -> Path:
    for number, columns in enumerate(files):
        write(path / f"part-{number}.parquet", **columns)
    return path


def rows(table: Table, *names: str) -> dict[str, list[object]]:
    read = pa.Table.from_batches(list(table.batches(names, 100)), pa.schema([table.schema.field(name) for name in names]))
    read.validate(full=True)
    return {name: read.column(name).to_pylist() for name in names}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([pa.array([1]), pa.array([2.5])], [1.0, 2.5]),
        ([pa.array([2.5]), pa.array([1])], [2.5, 1.0]),
        ([pa.nulls(1), pa.array(["a"])], [None, "a"]),
        ([pa.array(["a"]), pa.nulls(1)], ["a", None]),
        ([pa.array(["a"]).dictionary_encode(), pa.array(["b"])], ["a", "b"]),
        ([pa.array(["a"]), pa.array(["b"]).dictionary_encode()], ["a", "b"]),
        ([pa.array(["a"]), pa.array(["b"], pa.large_string()), pa.array(["c"], pa.string_view())], ["a", "b", "c"]),
        ([pa.array([1], pa.int8()), pa.array([2**40])], [1, 2**40]),
        ([pa.array([1]), pa.array(["b7"])], ["1", "b7"]),
        ([pa.array(["4006381330000"]), pa.array([4006381330001.0])], ["4006381330000", "4006381330001"]),
        ([pa.array([NOON], pa.timestamp("ms", "UTC")), pa.array([NOON], pa.timestamp("ns", "Europe/Berlin"))], [NOON, NOON]),
        ([pa.array([NOON], pa.timestamp("us")), pa.array([NOON], pa.timestamp("us", "UTC"))], [NOON, NOON]),
        ([pa.array([NOON.date()]), pa.array([NOON], pa.timestamp("us", "UTC"))], [NOON.replace(hour=0), NOON]),
        ([pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)), pa.array([[3.0]], pa.list_(pa.float64()))], [[1.0, 2.0], [3.0]]),
        ([pa.array([[]], pa.list_(pa.null())), pa.array([["a"]])], [[], ["a"]]),
    ],
    ids=lambda values: " then ".join(str(v.type) for v in values) if isinstance(values[0], pa.Array) else "",
)
def test_the_type_of_a_column_is_that_of_all_files(tmp_path: Path, values: Sequence[pa.Array], expected: list[object]) -> None:
    table = open_table(directory(tmp_path, *({"x": column} for column in values)), "items")
    assert rows(table, "x") == {"x": expected}


@pytest.mark.parametrize(
    "values",
    [
        [pa.array([True]), pa.array([1])],
        [pa.array([1]), pa.array([NOON])],
        [pa.array(["2026"]), pa.array([NOON])],
        [pa.array(["a"]), pa.array([["a"]])],
        [pa.array(["07"]), pa.array([7])],
        [pa.array([7]), pa.array(["07"])],
        [pa.array(["7"]), pa.array([7.5])],
        [pa.array([2**53 + 1]), pa.array([1.5])],
    ],
    ids=lambda values: " then ".join(str(v.type) for v in values),
)
def test_types_that_lose_something_together_are_refused_with_both_files(tmp_path: Path, values: Sequence[pa.Array]) -> None:
    table = open_table(directory(tmp_path, *({"x": column, "y": [1]} for column in values)), "items")
    assert rows(table, "y") == {"y": [1, 1]}
    with pytest.raises(DataError) as refused:
        rows(table, "x")
    assert all(word in str(refused.value) for word in ("'x'", "part-0.parquet", "part-1.parquet"))
    assert "\n" not in str(refused.value)


def test_a_column_that_a_file_lacks_is_missing_there(tmp_path: Path) -> None:
    table = open_table(directory(tmp_path, {"x": [1]}, {"y": ["a"], "x": [2]}, {"y": ["b"]}), "items")
    assert rows(table, "x", "y") == {"x": [1, 2, None], "y": [None, "a", "b"]}
    assert table.num_rows == 3


def test_empty_files_and_row_groups_yield_no_batches(tmp_path: Path) -> None:
    directory(tmp_path, {"x": pa.nulls(0)}, {"x": pa.array([1, 2, 3])}, {"x": pa.array([], pa.int32())})
    assert [batch.num_rows for batch in open_table(tmp_path, "items").batches(["x"], 2)] == [2, 1]


def test_folders_tell_columns(tmp_path: Path) -> None:
    for kind, day, store in (("view", "2026-01-05", "1"), ("add%20to%20cart", "2026-01-06", "007")):
        write(tmp_path / f"event_type={kind}" / f"day={day}" / f"store={store}" / f"week={store[-1]}" / "a.parquet", x=[1])
    write(tmp_path / "event_type=__HIVE_DEFAULT_PARTITION__" / "a.parquet", x=[2], store=["9"])
    assert rows(open_table(tmp_path, "events"), "event_type", "day", "store", "week", "x") == {
        "event_type": [None, "add to cart", "view"],
        "day": [None, date(2026, 1, 6), date(2026, 1, 5)],
        "store": ["9", "007", "1"],
        "week": [None, 7, 1],
        "x": [2, 1, 1],
    }


def test_a_column_of_a_file_counts_more_than_its_folder(tmp_path: Path) -> None:
    write(tmp_path / "brand=a" / "a.parquet", brand=["A"])
    write(tmp_path / "brand=b" / "a.parquet", x=[1])
    assert rows(open_table(tmp_path, "items"), "brand") == {"brand": ["A", "b"]}


def test_markers_and_hidden_files_are_passed_over_and_others_are_named(tmp_path: Path) -> None:
    write(tmp_path / "part-0.parquet", x=[1])
    write(tmp_path / "_temporary" / "part-1.parquet", x=[2])
    for name in ("_SUCCESS", ".part-0.parquet.crc", "README.md", "notes.csv"):
        (tmp_path / name).write_text("text" if name[0] not in "_." else "")
    table = open_table(tmp_path, "items")
    assert (rows(table, "x"), table.other_files) == ({"x": [1]}, ("README.md", "notes.csv"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"user,item\nann,bread\n", "text, not Parquet"),
        (b'{"user": "ann"}\n', "text, not Parquet"),
        (b"", "cut off"),
        (b"PAR1half of a file", "cut off"),
        (b"\x1f\x8b\x08\x00", "a gzip file"),
        (b"PK\x03\x04\x00", "a zip or Excel file"),
        (b"ARROW1\x00\x00", "an Arrow file"),
        (b"\x00\x01\x02", "no Parquet file"),
        (b"PAR1" + b"\xff" * 64 + b"PAR1", "cannot be read as Parquet"),
    ],
)
def test_a_file_that_is_no_parquet_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "events.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as refused:
        open_table(path, "events")
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_damaged_file_among_others_is_named(tmp_path: Path) -> None:
    directory(tmp_path, {"x": [1]}, {"x": list(range(10_000))})
    path = tmp_path / "part-1.parquet"
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"part-1.parquet cannot be read"):
        rows(open_table(tmp_path, "events"), "x")


@pytest.mark.parametrize(
    ("marker", "kind"),
    [
        ("_delta_log/0.json", "a Delta Lake table"),
        (".hoodie/x", "a Hudi table"),
        ("metadata/v1.metadata.json", "an Iceberg table"),
    ],
)
def test_a_table_format_whose_files_hold_replaced_rows_is_refused(tmp_path: Path, marker: str, kind: str) -> None:
    write(tmp_path / "part-0.parquet", x=[1])
    (tmp_path / marker).parent.mkdir()
    (tmp_path / marker).write_text("{}")
    with pytest.raises(DataError, match=f" is {kind}, whose files also hold replaced and deleted rows"):
        open_table(tmp_path, "events")


def test_a_directory_of_text_files_says_so(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("user,item\n")
    with pytest.raises(DataError, match=r"no Parquet files: events.csv is text"):
        open_table(tmp_path, "events")
    with pytest.raises(DataError, match="does not exist"):
        open_table(tmp_path / "nowhere", "events")


def test_columns_that_cannot_be_read_are_named_with_their_type(tmp_path: Path) -> None:
    names = ["x", "twice", "twice", "where", "more"]
    columns = [pa.array([1]), pa.array([1]), pa.array([2]), pa.array([{"lat": 1.0}]), pa.array([[{"a": 1}]])]
    pq.write_table(pa.Table.from_arrays(columns, names=names), tmp_path / "a.parquet")
    table = open_table(tmp_path / "a.parquet", "items")
    assert table.schema.names == ["x"]
    assert {name: why.split(";")[0] for name, why in table.left_out.items()} == {
        "twice": f"{tmp_path / 'a.parquet'} has two columns of this name",
        "where": "it holds struct<lat: double>",
        "more": "it holds list<element: struct<a: int64>>",
    }
    with pytest.raises(DataError, match=r"column 'where' cannot be read: it holds struct"):
        table.require(["x", "where"])
    with pytest.raises(DataError, match=r"has no column 'z'; it has x"):
        table.require(["z"])


@pytest.mark.parametrize("name", ["price.eur", "a b", "class", "naïve", "a`b", "user_id:token"])
def test_a_column_may_have_any_name(tmp_path: Path, name: str) -> None:
    assert rows(open_table(write(tmp_path / "a.parquet", **{name: [1]}), "items"), name) == {name: [1]}


def test_the_first_rows_and_a_whole_column(tmp_path: Path) -> None:
    table = open_table(directory(tmp_path, {"x": [1, 2]}, {"x": [2.5]}), "items")
    assert table.head(["x"], 1).to_pydict() == {"x": [1.0]}
    assert table.head(["x"], 9).to_pydict() == {"x": [1.0, 2.0, 2.5]}
    assert table.column("x").to_pylist() == [1.0, 2.0, 2.5]


def test_a_file_may_be_linked_from_elsewhere(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "a.parquet", x=[1])
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "day=1").symlink_to(tmp_path / "elsewhere")
    assert rows(open_table(tmp_path / "log", "events"), "x", "day") == {"x": [1], "day": [1]}


def test_a_uuid_of_another_tool_is_read_as_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"u": pa.array([bytes(16)], pa.uuid())}), path, store_schema=False)
    assert rows(open_table(path, "items"), "u") == {"u": ["00000000-0000-0000-0000-000000000000"]}


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", x=[1])

    def refuse(file: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"a.parquet cannot be read: Permission denied"):
        open_table(path, "items")


def test_old_times_of_spark_reach_beyond_the_year_2262(tmp_path: Path) -> None:
    path, moments = tmp_path / "a.parquet", [NOON.replace(tzinfo=None), datetime(9999, 12, 31)]
    pq.write_table(pa.table({"t": pa.array(moments, pa.timestamp("us"))}), path, use_deprecated_int96_timestamps=True)
    assert rows(open_table(path, "items"), "t") == {"t": moments}


def test_a_column_of_128_bit_integers_is_named(tmp_path: Path) -> None:
    narrow = pa.schema([("id", pa.string()), ("stock", pa.int64())])
    message = narrow.serialize().to_pybytes()
    wide = message.replace(struct.pack("<I", 64), struct.pack("<I", 128))
    assert wide != message
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": ["a"], "stock": [1]}), path)
    content = path.read_bytes()
    assert b64encode(message) in content
    path.write_bytes(content.replace(b64encode(message), b64encode(wide)))
    with pytest.raises(DataError, match="column 'stock' holds integers of 128 bits"):
        open_table(path, "items")
