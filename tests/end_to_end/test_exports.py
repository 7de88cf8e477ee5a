"""One log in a dozen types and layouts: all of its events, users and items arrive in the release, or one line says why not."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.exports import NUM_EVENTS, NUM_ITEMS, NUM_USERS, Outcome, drive

START = datetime(2026, 1, 5, 8, tzinfo=UTC)
Columns = dict[str, Any]


def log() -> Columns:
    number = np.arange(NUM_EVENTS)
    return {
        "user_id": pa.array([f"{n % NUM_USERS:03d}" for n in number]),
        "item_id": pa.array([f"i{n}" for n in np.random.default_rng(0).permutation(number) % NUM_ITEMS]),
        "timestamp": pa.array([START + timedelta(hours=3 * int(n)) for n in number], pa.timestamp("us", "UTC")),
        "event_type": pa.array(["view", "purchase", "view"] * (NUM_EVENTS // 3)),
        "paid": pa.array(number / 7),
    }


def catalogue() -> Columns:
    number = range(NUM_ITEMS)
    return {
        "item_id": pa.array([f"i{n}" for n in number]),
        "title": pa.array([f"a thing of colour {n % 3}" for n in number]),
        "brand": pa.array([f"b{n % 5}" for n in number]),
        "price": pa.array([n + 0.5 for n in number]),
        "image": pa.array([[n, 1.0] for n in number], pa.list_(pa.float32())),
    }


def part(columns: Columns, start: int, stop: int, **changes: Any) -> Columns:
    return {name: column.slice(start, stop - start) for name, column in columns.items()} | changes


def changed(events: Columns | None = None, items: Columns | None = None) -> Callable[[Path], None]:
    """A file of each, with some columns in other types."""

    def put(where: Path) -> None:
        pq.write_table(pa.table(log() | (events or {})), where / "events.parquet")
        pq.write_table(pa.table(catalogue() | (items or {})), where / "items.parquet")

    return put


def of_days(second: Columns) -> Callable[[Path], None]:
    """The log as two files, of which the second has other types."""

    def put(where: Path) -> None:
        changed()(where)
        (where / "events.parquet").unlink()
        (where / "events").mkdir()
        pq.write_table(pa.table(part(log(), 0, 240)), where / "events" / "1.parquet")
        pq.write_table(pa.table(part(log(), 240, NUM_EVENTS, **second)), where / "events" / "2.parquet")

    return put


def of_folders(where: Path) -> None:
    """The log and the catalogue in folders that tell a column, with the files that Spark leaves beside them."""
    for name, table, column in (("events", pa.table(log()), "event_type"), ("items", pa.table(catalogue()), "brand")):
        for value in table[column].unique().to_pylist():
            folder = where / name / f"{column}={value}"
            folder.mkdir(parents=True)
            rows = table.filter(pc.equal(table[column], value)).drop_columns([column])
            pq.write_table(rows, folder / "part-00000.snappy.parquet")
        (where / name / "_SUCCESS").touch()
        (where / name / "README").write_text("what this is")


def outcome(put: Callable[[Path], None], tmp_path: Path) -> Outcome:
    (tmp_path / "set").mkdir()
    (tmp_path / "results").mkdir()
    put(tmp_path / "set")
    return drive(tmp_path / "set", tmp_path / "results")


EPOCH_S = pa.array([int((START + timedelta(hours=3 * n)).timestamp()) for n in range(NUM_EVENTS)])
SHOP_TIMES = pa.array([f"{START + timedelta(hours=n):%Y-%m-%d %H:%M:%S} -0500" for n in range(NUM_EVENTS)])
WHOLE = {
    "plain": changed(),
    "epoch_seconds": changed({"timestamp": EPOCH_S}),
    "text_times": changed({"timestamp": SHOP_TIMES}),
    "views": changed(
        {name: log()[name].cast(pa.string_view()) for name in ("user_id", "item_id", "event_type")},
        {name: catalogue()[name].cast(pa.string_view()) for name in ("item_id", "title", "brand")},
    ),
    "list_views": changed(items={"image": pa.array(catalogue()["image"].to_pylist(), pa.list_view(pa.float32()))}),
    "fixed_lists_of_which_some_are_missing": changed(
        items={"image": pa.array([[n, 1.0] if n % 3 else None for n in range(NUM_ITEMS)], pa.list_(pa.float16(), 2))}
    ),
    "categories_in_lists": changed(
        items={"tags": pa.array([["a", f"t{n % 4}"] for n in range(NUM_ITEMS)], pa.list_(pa.dictionary(pa.int32(), pa.string())))}
    ),
    "large_integers": changed(items={"stock": pa.array([2**63 + n for n in range(NUM_ITEMS)], pa.uint64())}),
    "folders": of_folders,
    "another_unit_and_zone_later": of_days(
        {"timestamp": log()["timestamp"].slice(240).cast(pa.timestamp("ns", "Europe/Berlin")), "paid": pa.array(range(240))}
    ),
    "a_column_gone_and_one_added_later": of_days({"channel": pa.array(["app"] * 240), "event_type": pa.nulls(240)}),
}


@pytest.mark.parametrize("name", WHOLE)
def test_all_events_users_and_items_arrive(name: str, tmp_path: Path) -> None:
    found = outcome(WHOLE[name], tmp_path)
    assert found.verdict == "whole", found


REFUSED = {
    "another_kind_of_time_later": (of_days({"timestamp": pa.array(range(240))}), "'timestamp'"),
    "us_dates": (changed({"timestamp": pa.array(["01/05/2026 08:00"] * NUM_EVENTS)}), "'timestamp'"),
    "padded_numbers_later": (of_days({"user_id": pa.array(range(240))}), "'user_id'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_read_otherwise_is_refused_in_a_line(name: str, tmp_path: Path) -> None:
    put, column = REFUSED[name]
    found = outcome(put, tmp_path)
    assert (found.verdict, column in found.line) == ("refused", True), found
