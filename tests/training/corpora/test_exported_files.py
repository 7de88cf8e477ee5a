"""Files of the usual tools become events.parquet and items.parquet."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.corpora.exported_files import prepare
from training.corpora.text_files import TextOptions
from twotower.errors import DataError

EVENTS = b"user_id,item_id,event_type,timestamp\nann,007,view,2026-03-02T09:10:00Z\nbob,8,buy,2026-03-03T09:10:00Z\n"
ITEMS = b"item_id;title;price\n007;rye bread;3,40\n8;milk;1,29\n"


def write(tmp_path: Path, **files: bytes) -> list[Path]:
    paths = []
    for name, content in files.items():
        paths.append(tmp_path / name.replace("__", "."))
        paths[-1].write_bytes(content)
    return paths


def prepared(tmp_path: Path, events: list[Path], items: list[Path], **options: object) -> tuple[pa.Table, pa.Table, str]:
    given = TextOptions(**options)  # type: ignore[arg-type]
    written = prepare(events, items, tmp_path / "out", given, given)
    events_table, items_table = (pq.read_table(tmp_path / "out" / f"{name}.parquet") for name in ("events", "items"))
    return events_table, items_table, "\n".join(line for file in written for line in file.lines())


def test_csv_becomes_parquet_with_the_zeros_of_its_ids(tmp_path: Path) -> None:
    events, items, said = prepared(tmp_path, write(tmp_path, e__csv=EVENTS), write(tmp_path, i__csv=ITEMS))
    assert events.column("item_id").to_pylist() == items.column("item_id").to_pylist() == ["007", "8"]
    assert events.schema.field("timestamp").type == pa.timestamp("us", "UTC")
    assert items.column("price").to_pylist() == [3.4, 1.29]
    assert "events.parquet: 2 rows: user_id text, item_id text, event_type text, timestamp times with a zone" in said


def test_files_of_a_directory_are_one_table_and_a_column_that_one_lacks_is_missing_there(tmp_path: Path) -> None:
    folder = tmp_path / "days"
    folder.mkdir()
    write(
        folder,
        a__csv=EVENTS,
        b__csv=b"user_id,item_id,event_type,timestamp,paid\ncat,8,buy,2026-03-04T09:10:00Z,5\n",
        _SUCCESS=b"",
    )
    events, _, _ = prepared(tmp_path, [folder], write(tmp_path, i__csv=ITEMS))
    assert events.column("user_id").to_pylist() == ["ann", "bob", "cat"]
    assert events.column("paid").to_pylist() == [None, None, 5]


def test_recbole_and_movielens_are_read_as_they_come(tmp_path: Path) -> None:
    inter = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t07\t5\t978300760\n"
    movies = b"07::Star Wars: IV (1977)::Action|Sci-Fi\n"
    events, items, _ = prepared(tmp_path, write(tmp_path, a__inter=inter), write(tmp_path, movies__dat=movies))
    assert events.to_pylist() == [{"user_id": "1", "item_id": "07", "rating": 5.0, "timestamp": 978300760.0}]
    assert items.to_pylist() == [{"item_id": "07", "title": "Star Wars: IV (1977)", "genres": ["Action", "Sci-Fi"]}]


def test_json_lines_and_parquet_may_be_mixed_with_text(tmp_path: Path) -> None:
    lines = b'{"user_id": "ann", "item_id": 7, "ts": "2026-03-02T09:10:00Z", "event": "buy"}\n'
    pq.write_table(pa.table({"item_id": [7], "brand": ["5"]}), tmp_path / "i.parquet")
    events, items, _ = prepared(tmp_path, write(tmp_path, e__jsonl=lines), [tmp_path / "i.parquet"])
    assert events.schema.field("ts").type == pa.timestamp("us", "UTC")
    assert items.to_pylist() == [{"item_id": 7, "brand": "5"}]  # it has its types already


def test_an_export_of_ga4_needs_no_catalogue(tmp_path: Path) -> None:
    event = {"event_timestamp": "1767600000000000", "event_name": "purchase", "user_pseudo_id": "a.1"}
    rows = [{**event, "items": [{"item_id": "s1", "item_name": "Shoe"}]}, {**event, "items": []}]
    events, items, said = prepared(tmp_path, write(tmp_path, ga__jsonl="\n".join(map(json.dumps, rows)).encode()), [])
    assert events.column("event_type").to_pylist() == ["purchase"]
    assert items.to_pylist() == [{"item_id": "s1", "item_name": "Shoe"}]
    assert "1 of 2 events name no item and are left out" in said


def test_lines_that_are_left_out_are_counted_and_named(tmp_path: Path) -> None:
    _, _, said = prepared(tmp_path, write(tmp_path, e__csv=EVENTS + b"cut\n"), write(tmp_path, i__csv=ITEMS), skip_bad_lines=True)
    assert "1 line of" in said
    assert "(such as line 4)" in said


def test_a_column_without_a_name_is_left_out_with_a_word(tmp_path: Path) -> None:
    _, items, said = prepared(tmp_path, write(tmp_path, e__csv=EVENTS), write(tmp_path, i__csv=b",item_id,x\n0,8,a\n"))
    assert items.column_names == ["item_id", "x"]
    assert "a column without a name is left out" in said


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("e__xlsx", b"PK\x03\x04" + b"\0" * 30, "e.xlsx is a zip or Excel file: .*save it as CSV"),
        ("e__db", b"SQLite format 3\0", "an SQLite file"),
        ("e__bin", b"a\0\0b", "is no text"),
        ("e__csv", b"a,b\n1\n", "e.csv, line 2: "),
        ("e__csv", b"user_id,item_id\n", "not one row for events.parquet"),
        ("e__inter", b"user_id:token\tpaid:float\nann\tfree\n", "column 'paid:float': .*'?free'?"),
    ],
)
def test_what_is_no_text_or_not_whole_is_said_in_a_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        prepared(tmp_path, write(tmp_path, **{name: content}), write(tmp_path, i__csv=ITEMS))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_file_is_not_replaced_by_its_own_conversion(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": ["7"]}), tmp_path / "items.parquet")
    events = write(tmp_path, e__csv=EVENTS)
    with pytest.raises(DataError, match=r"items\.parquet would be replaced by the result"):
        prepare(events, [tmp_path / "items.parquet"], tmp_path, TextOptions(), TextOptions())


def test_events_without_a_catalogue_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give the catalogue with --items"):
        prepared(tmp_path, write(tmp_path, e__csv=EVENTS), [])
