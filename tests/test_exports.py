"""Every row of the table "What your export looks like" in docs/your-data.md holds: a data set is made as the tool writes it.

Each has the same 240 events of 12 users and 30 items, unless its row says that something is left out or refused.
"""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.documents import ROOT, tables
from training.corpora.exported_files import prepare
from training.corpora.text_files import TextOptions
from training.data.infer import Guess, infer_schema
from training.data.inspect import inspect
from twotower.data.schema import Constant
from twotower.errors import DataError

START, NUM_EVENTS, NUM_USERS, NUM_ITEMS = datetime(2026, 1, 5, 8, tzinfo=UTC), 240, 12, 30
Columns = dict[str, Any]
Case = Callable[["Export"], None]
TIMES = [START + timedelta(hours=5 * n) for n in range(NUM_EVENTS)]
SECONDS = [int(time.timestamp()) for time in TIMES]
USERS = [f"u{n % NUM_USERS}" for n in range(NUM_EVENTS)]
ITEMS = [f"i{n * 7 % NUM_ITEMS}" for n in range(NUM_EVENTS)]
TYPES = ["view", "purchase"] * (NUM_EVENTS // 2)
EVENTS: Columns = {"user_id": USERS, "item_id": ITEMS, "timestamp": TIMES, "event_type": TYPES}
CATALOGUE: Columns = {
    "item_id": [f"i{n}" for n in range(NUM_ITEMS)],
    "title": [f"number {n}, the red shoe" for n in range(NUM_ITEMS)],
    "price": [1.5 + n for n in range(NUM_ITEMS)],
}


class Export:
    """A data set in a directory, and what infer and validate make of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.events, self.items = directory / "events.parquet", directory / "items.parquet"
        self.write("events.parquet", EVENTS)
        self.write("items.parquet", CATALOGUE)

    def write(self, name: str, columns: Columns, **options: Any) -> Path:
        path = self.directory / name
        path.parent.mkdir(exist_ok=True, parents=True)
        pq.write_table(pa.table({n: values for n, values in columns.items() if values is not None}), path, **options)
        return path

    def text(self, name: str, content: str | bytes) -> Path:
        path = self.directory / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def prepared(self, events: Path, items: Path | None = None) -> None:
        """Convert text; what follows uses the result."""
        out, options = self.directory / "prepared", TextOptions()
        prepare([events], [items] if items else [], out, options, options)
        self.events, self.items = out / "events.parquet", out / "items.parquet"

    def guess(self, events: int = NUM_EVENTS, users: int = NUM_USERS, items: int = NUM_ITEMS) -> Guess:
        """The inferred schema, with which validate finds so many events, users and items and no error."""
        guess = infer_schema(self.events, self.items)
        found = inspect(self.events, self.items, guess.schema)
        assert not [f for f in found if f.level == "error"]
        notes = [f.what for f in found]
        total = pq.read_table(self.events, columns=[guess.schema.events.item_id]).num_rows
        assert f"{events} usable of {total}, {users} users" in notes
        assert f"{items} items" in notes
        return guess

    def days(self, first: Columns, second: Columns) -> None:
        """The events as two files, each half with other or further columns."""
        self.events = self.directory / "days"
        half = NUM_EVENTS // 2
        for name, rows, changes in (("part-0", slice(None, half), first), ("part-1", slice(half, None), second)):
            self.write(f"days/{name}.parquet", {**{n: v[rows] for n, v in EVENTS.items()}, **changes})


CASES: dict[tuple[str, str], Case] = {}


def row(source: str, begins: str) -> Callable[[Case], Case]:
    """Register the test of the row whose first cell is `source` and whose second one begins so."""

    def register(case: Case) -> Case:
        CASES[source, begins] = case
        return case

    return register


def left_out(guess: Guess) -> set[str]:
    return {column.name for column in guess.left_out}


@row("pandas", "an index that was saved too")
def saved_index(export: Export) -> None:
    export.write("events.parquet", {**EVENTS, "__index_level_0__": list(range(NUM_EVENTS))})
    assert left_out(export.guess()) == {"__index_level_0__"}


@row("pandas", "categories, nullable types")
def categories(export: Export) -> None:
    coded = {name: pa.array(EVENTS[name]).dictionary_encode() for name in ("user_id", "item_id", "event_type")}
    export.write("events.parquet", {**EVENTS, **coded, "timestamp": pa.array(TIMES, pa.timestamp("ns", "Europe/Berlin"))})
    export.write("items.parquet", {**CATALOGUE, "brand": pa.array(["a", None, "b"] * 10).dictionary_encode()})
    guess = export.guess()
    assert guess.schema.items.features["brand"] == "categorical"
    assert guess.schema.require_split().test_from < TIMES[-1]


@row("pandas", "ids that became floats")
def floating_ids(export: Export) -> None:
    users = [None if n < 24 else float(n % NUM_USERS) for n in range(NUM_EVENTS)]
    export.write("events.parquet", {**EVENTS, "user_id": users})
    export.guess(events=NUM_EVENTS - 24)


@row("polars", "`Categorical`, `Enum`")
def polars_types(export: Export) -> None:
    vectors = pa.array([[1.0, n] for n in range(NUM_ITEMS)], pa.list_(pa.float32(), 2))
    tags = pa.array(["red", "blue"] * NUM_ITEMS).dictionary_encode()
    lists = pa.LargeListArray.from_arrays(pa.array(range(0, 2 * NUM_ITEMS + 1, 2), pa.int64()), tags)
    export.write(
        "items.parquet", {**CATALOGUE, "vec": vectors, "tags": lists, "brand": pa.array(["a", "b"] * 15, pa.string_view())}
    )
    features = export.guess().schema.items.features
    assert (features["vec"], features["tags"], features["brand"]) == ("vector", "list", "categorical")


@row("polars", "`Struct` columns")
def structs(export: Export) -> None:
    export.write("items.parquet", {**CATALOGUE, "size": [{"w": 1.0}] * NUM_ITEMS})
    assert left_out(export.guess()) == {"size"}


@row("duckdb", "`ENUM`, `DECIMAL`")
def duckdb_types(export: Export) -> None:
    uuids = {item: UUID(int=n).bytes for n, item in enumerate(CATALOGUE["item_id"])}
    export.write("events.parquet", {**EVENTS, "item_id": pa.array([uuids[i] for i in ITEMS], pa.uuid())})
    columns = {
        "item_id": pa.array(list(uuids.values()), pa.uuid()),
        "price": [Decimal("2.50")] * NUM_ITEMS,
        "units": [1e30] * NUM_ITEMS,
    }
    export.write("items.parquet", {**CATALOGUE, **columns})
    features = export.guess().schema.items.features
    assert (features["price"], features["units"]) == ("numeric", "numeric")


@row("duckdb", "`MAP` columns")
def maps(export: Export) -> None:
    pairs = pa.array([[("k", "v")]] * NUM_ITEMS, pa.map_(pa.string(), pa.string()))
    export.write("items.parquet", {**CATALOGUE, "attributes": pairs, "variants": [[{"sku": "1"}]] * NUM_ITEMS})
    assert left_out(export.guess()) == {"attributes", "variants"}


@row("duckdb", "`PARTITION_BY")
def partitions(export: Export) -> None:
    export.events = export.directory / "lake"
    for kind in ("view", "purchase"):
        rows = [n for n in range(NUM_EVENTS) if TYPES[n] == kind]
        columns = {name: [values[n] for n in rows] for name, values in EVENTS.items() if name != "event_type"}
        export.write(f"lake/event_type={kind}/data_0.parquet", columns)
    guess = infer_schema(export.events, export.items)
    notes = [f.what for f in inspect(export.events, export.items, guess.schema)]
    assert f"{NUM_EVENTS} usable of {NUM_EVENTS}, {NUM_USERS} users" in notes
    assert any("types: purchase, view" in note for note in notes)


@row("Spark", "a directory with `_SUCCESS`")
def success_files(export: Export) -> None:
    export.days({}, {})
    export.text("days/_SUCCESS", "")
    export.text("days/.part-0.parquet.crc", b"crc\0")
    export.guess()


@row("Spark", "a column that only later files have")
def later_columns(export: Export) -> None:
    half = NUM_EVENTS // 2
    export.days({"note": pa.nulls(half)}, {"note": ["gift", "none"] * (half // 2), "paid": [1.5, 2.5] * (half // 2)})
    assert export.guess().schema.events.features == {"note": "categorical", "paid": "numeric"}


@row("Spark", "integers in one file and decimals")
def widened(export: Export) -> None:
    half = NUM_EVENTS // 2
    days = [pa.array([t.date() for t in TIMES[:half]]), pa.array(TIMES[half:], pa.timestamp("ms"))]
    export.days(
        {"paid": [1, 2] * (half // 2), "timestamp": days[0]},
        {"paid": pa.array([Decimal("1.50")] * half), "timestamp": days[1]},
    )
    assert export.guess().schema.events.features == {"paid": "numeric"}


@row("Spark", "`timestamp` as a time in one file")
def two_kinds_of_times(export: Export) -> None:
    export.days({}, {"timestamp": SECONDS[NUM_EVENTS // 2 :]})
    with pytest.raises(DataError, match=r"'timestamp'.*part-0\.parquet.*part-1\.parquet"):
        export.guess()


@row("Spark", "old files with `INT96`")
def int96(export: Export) -> None:
    export.write(
        "events.parquet", {**EVENTS, "timestamp": [t.replace(tzinfo=None) for t in TIMES]}, use_deprecated_int96_timestamps=True
    )
    export.guess()


@row("BigQuery", "times as text")
def text_times(export: Export) -> None:
    for written in ("%Y-%m-%d %H:%M:%S UTC", "%Y-%m-%dT%H:%M:%S.123Z", "%Y-%m-%d %H:%M:%S -0500"):
        export.write("events.parquet", {**EVENTS, "timestamp": [t.strftime(written) for t in TIMES]})
        export.guess()


@row("BigQuery", "times as numbers")
def number_times(export: Export) -> None:
    days = [int(t.strftime("%Y%m%d")) for t in TIMES]
    for values in (SECONDS, [s * 10**3 for s in SECONDS], [s * 10**6 for s in SECONDS], [s * 10**9 for s in SECONDS], days):
        export.write("events.parquet", {**EVENTS, "timestamp": values})
        export.guess()


def nested() -> Iterator[Columns]:
    for n in range(NUM_EVENTS):
        items = [{"item_id": ITEMS[n], "item_name": f"Shoe of {ITEMS[n]}", "price": 1.5}]
        yield {"event_timestamp": SECONDS[n] * 10**6, "event_name": TYPES[n], "user_pseudo_id": USERS[n], "items": items}


@row("GA4", "the nested export")
def ga4_parquet(export: Export) -> None:
    pq.write_table(pa.Table.from_pylist(list(nested())), export.directory / "ga4.parquet")
    with pytest.raises(DataError, match="twotower prepare files --events"):
        infer_schema(export.directory / "ga4.parquet", export.items)
    export.prepared(export.directory / "ga4.parquet")
    assert export.guess().schema.items.features == {"item_name": "text", "price": "numeric"}


@row("GA4", "the same as JSON lines")
def ga4_json(export: Export) -> None:
    lines = "".join(json.dumps({**event, "event_timestamp": str(event["event_timestamp"])}) + "\n" for event in nested())
    export.prepared(export.text("ga4.jsonl", lines))
    export.guess()


@row("GA4", "a flat table")
def ga4_flat(export: Export) -> None:
    names = {"user_pseudo_id": USERS, "event_name": TYPES, "event_timestamp": [s * 10**6 for s in SECONDS], "item_id": ITEMS}
    export.write("events.parquet", names)
    export.guess()


@row("RecBole", "`.inter` and `.item`")
def recbole_files(export: Export) -> None:
    lines = [f"{u}\t{i}\t{s}\n" for u, i, s in zip(USERS, ITEMS, SECONDS, strict=True)]
    events = export.text("x.inter", "user_id:token\titem_id:token\ttimestamp:float\n" + "".join(lines))
    items = export.text("x.item", "item_id:token\tclass:token_seq\n" + "".join(f"i{n}\tred shoe\n" for n in range(NUM_ITEMS)))
    export.prepared(events, items)
    guess = export.guess()
    assert guess.schema.items.features == {"class": "list"}
    assert guess.schema.events.event_type == Constant(constant="purchase")


@row("RecBole", "Parquet with its names")
def recbole_parquet(export: Export) -> None:
    export.write("events.parquet", dict(zip([f"{name}:token" for name in EVENTS], EVENTS.values(), strict=True)))
    export.write("items.parquet", {"item_id:token": CATALOGUE["item_id"], "price:float": CATALOGUE["price"]})
    export.guess()


def ratings(separator: str) -> str:
    rows = zip(USERS, ITEMS, SECONDS, strict=True)
    return "".join(f"{u[1:]}{separator}0{i[1:]}{separator}4{separator}{s}\n" for u, i, s in rows)


@row("MovieLens", "`ratings.csv`")
def movielens_csv(export: Export) -> None:
    movies = "movieId,title,genres\n" + "".join(f'0{n},"Shoe, The (19{n + 60})",Action|Drama\n' for n in range(NUM_ITEMS))
    export.prepared(
        export.text("ratings.csv", "userId,movieId,rating,timestamp\n" + ratings(",")), export.text("movies.csv", movies)
    )
    guess = export.guess()
    assert guess.schema.items.features == {"title": "text", "genres": "list"}
    assert pq.read_table(export.items).column("movieId")[7].as_py() == "07"


@row("MovieLens", "`ratings.dat`")
def movielens_dat(export: Export) -> None:
    movies = "".join(f"0{n}::Shoe: é (19{n + 60})::Action|Drama\n" for n in range(NUM_ITEMS))
    export.prepared(export.text("ratings.dat", ratings("::")), export.text("movies.dat", movies.encode("latin-1")))
    assert export.guess().schema.items.features == {"title": "text", "genres": "list"}


@row("H&M, Amazon, Retailrocket", "`t_dat`")
def public_names(export: Export) -> None:
    days = [date(2026, 1, 1) + timedelta(days=n // 4) for n in range(NUM_EVENTS)]
    for user, item, time, kind in (
        ("customer_id", "article_id", "t_dat", None),
        ("user_id", "parent_asin", "timestamp", None),
        ("visitorid", "itemid", "timestamp", "event"),
    ):
        columns = {user: USERS, item: ITEMS, time: days, **({kind: TYPES} if kind else {})}
        export.write("events.parquet", columns)
        export.write("items.parquet", {item: CATALOGUE["item_id"], "price": CATALOGUE["price"]})
        assert export.guess().schema.events.event_type == (kind or Constant(constant="purchase"))


@row("a spreadsheet", "CSV with semicolons")
def semicolons(export: Export) -> None:
    lines = [";".join((u, i, t.isoformat(), k)) for u, i, t, k in zip(USERS, ITEMS, TIMES, TYPES, strict=True)]
    events = export.text("e.csv", "\ufeffuser_id;item_id;timestamp;event_type\r\n" + "\r\n".join(lines))
    items = export.text("i.csv", "\ufeffitem_id;price\r\n" + "".join(f"i{n};{n},50\r\n" for n in range(NUM_ITEMS)))
    export.prepared(events, items)
    assert export.guess().schema.items.features == {"price": "numeric"}


@row("a spreadsheet", "`.xlsx`")
def excel(export: Export) -> None:
    with pytest.raises(DataError, match=r"e\.xlsx is a zip or Excel file: .*save it as CSV"):
        export.prepared(export.text("e.xlsx", b"PK\x03\x04" + bytes(40)), export.items)


@row("anywhere", "CSV or JSON given")
def text_in_place_of_parquet(export: Export) -> None:
    for content in ("user_id,item_id\nann,bread\n", '{"user_id": "ann"}\n'):
        export.events = export.text("e.csv", content)
        with pytest.raises(DataError, match="text, not Parquet: `twotower prepare files`"):
            export.guess()


@row("anywhere", "ids that are numbers in one file")
def lost_zeros(export: Export) -> None:
    export.write("events.parquet", {**EVENTS, "item_id": [int(i[1:]) for i in ITEMS]})
    export.write("items.parquet", {**CATALOGUE, "item_id": [f"0{n}" for n in range(NUM_ITEMS)]})
    guess = infer_schema(export.events, export.items)
    (error,) = (f.what for f in inspect(export.events, export.items, guess.schema) if f.level == "error")
    assert "holds '0', the catalogue's 'item_id' holds '00'" in error


def rows_of_the_page() -> list[tuple[str, str]]:
    text = (ROOT / "docs" / "your-data.md").read_text()
    (table,) = (table for table in tables(text) if table[0] == ["from", "your export", "what happens"])
    return [(cells[0], cells[1]) for cells in table[1:]]


@pytest.mark.parametrize(("source", "export"), rows_of_the_page())
def test_what_the_page_says_of_an_export_happens(source: str, export: str, tmp_path: Path) -> None:
    (case,) = (case for (of, begins), case in CASES.items() if of == source and export.startswith(begins))
    case(Export(tmp_path))


def test_the_page_has_a_row_for_every_case() -> None:
    page = rows_of_the_page()
    assert not [key for key in CASES if not any(source == key[0] and export.startswith(key[1]) for source, export in page)]
