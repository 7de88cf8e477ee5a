"""Runs in the tools' environment: `python write_sets.py DIRECTORY` writes the sets of `benchmarks.exports`, a folder each.

All hold the same 480 events of 40 users on 30 items. What pyarrow alone can write is in the tests instead.
"""

import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

NUM_EVENTS, NUM_USERS, NUM_ITEMS = 480, 40, 30
START = datetime(2026, 1, 5, 8)
WORDS = ("red", "blue", "small", "large", "cotton", "wool", "shirt", "coat", "shoe", "hat")


def events() -> pa.Table:
    """The log: every user has events, every item occurs."""
    rng = np.random.default_rng(0)
    number = np.arange(NUM_EVENTS)
    return pa.table(
        {
            "user_id": [f"u{n % NUM_USERS:02d}" for n in number],
            "item_id": [f"i{n:03d}" for n in rng.permutation(number) % NUM_ITEMS],
            "timestamp": pa.array([START + timedelta(hours=3 * int(n)) for n in number], pa.timestamp("us")),
            "event_type": rng.choice(["view", "purchase"], NUM_EVENTS).tolist(),
            "paid": np.round(rng.gamma(2, 10, NUM_EVENTS) + 1, 2),
            "channel": rng.choice(["web", "app"], NUM_EVENTS).tolist(),
        }
    )


def items() -> pa.Table:
    """The catalogue: text, categories, numbers, times, lists and vectors."""
    rng = np.random.default_rng(1)
    number = range(NUM_ITEMS)
    return pa.table(
        {
            "item_id": [f"i{n:03d}" for n in number],
            "title": [" ".join(rng.choice(WORDS, 4, replace=False)) for _ in number],
            "brand": [f"b{n % 5}" for n in number],
            "price": np.round(rng.gamma(2, 10, NUM_ITEMS) + 1, 2),
            "stock": rng.integers(0, 50, NUM_ITEMS),
            "released": pa.array([START - timedelta(days=int(d)) for d in rng.integers(0, 200, NUM_ITEMS)], pa.timestamp("us")),
            "tags": [rng.choice(WORDS, 2, replace=False).tolist() for _ in number],
            "image": pa.array(rng.normal(size=(NUM_ITEMS, 4)).tolist(), pa.list_(pa.float32())),
        }
    )


def write(root: Path) -> None:
    """Write every set into a folder of its own."""
    shutil.rmtree(root, ignore_errors=True)
    for name, put in [*pandas_sets(), *polars_sets(), *duckdb_sets()]:
        folder = root / name
        folder.mkdir(parents=True)
        put(folder)


Put = Callable[[Path], None]


def pandas_sets() -> Iterator[tuple[str, Put]]:
    """What DataFrame.to_parquet writes."""
    log, catalogue = events().to_pandas(), items().to_pandas()

    def frames(log: pd.DataFrame, catalogue: pd.DataFrame) -> Put:
        def put(folder: Path) -> None:
            log.to_parquet(folder / "events.parquet")
            catalogue.to_parquet(folder / "items.parquet")

        return put

    numbered = log.assign(item_id=log.item_id.str[1:].astype(int), user_id=log.user_id.str[1:].astype(float))
    yield "pandas", frames(log, catalogue)
    yield "pandas_index", frames(log.set_index("user_id"), catalogue.set_index("item_id"))
    yield (
        "pandas_category",
        frames(log.astype({"user_id": "category", "channel": "category"}), catalogue.astype({"brand": "category"})),
    )
    yield "pandas_nullable", frames(log.convert_dtypes(), catalogue.convert_dtypes())
    yield "pandas_float_ids", frames(numbered, catalogue.assign(item_id=catalogue.item_id.str[1:].astype(int)))
    yield (
        "pandas_zone",
        frames(log.assign(timestamp=log.timestamp.dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin")), catalogue),
    )
    yield "pandas_offset", frames(log.assign(timestamp=log.timestamp.dt.tz_localize("UTC").dt.tz_convert("+02:00")), catalogue)
    yield (
        "pandas_dates",
        frames(log.assign(timestamp=log.timestamp.dt.date), catalogue.assign(released=catalogue.released.dt.date)),
    )
    yield "pandas_decimal", frames(log, catalogue.assign(price=[Decimal(str(price)) for price in catalogue.price]))
    yield (
        "pandas_float16",
        frames(log.assign(paid=log.paid.astype("float16")), catalogue.assign(price=catalogue.price.astype("f2"))),
    )
    yield "pandas_dictionaries", frames(log, catalogue.assign(size=[{"width": 1.0, "height": 2.0}] * NUM_ITEMS))


def polars_sets() -> Iterator[tuple[str, Put]]:
    """What DataFrame.write_parquet writes."""
    log, catalogue = pl.DataFrame(events()), pl.DataFrame(items())
    category, brands = pl.Categorical(), pl.Enum([f"b{n}" for n in range(5)])

    def frames(log: pl.DataFrame, catalogue: pl.DataFrame) -> Put:
        def put(folder: Path) -> None:
            log.write_parquet(folder / "events.parquet")
            catalogue.write_parquet(folder / "items.parquet")

        return put

    def partitioned(folder: Path) -> None:
        log.write_parquet(folder / "events", partition_by="event_type")
        catalogue.write_parquet(folder / "items.parquet")

    yield "polars", frames(log, catalogue)
    yield "polars_categorical", frames(log.cast({"user_id": category, "channel": category}), catalogue.cast({"brand": brands}))
    yield "polars_array", frames(log, catalogue.cast({"image": pl.Array(pl.Float32, 4), "price": pl.Decimal(10, 2)}))
    yield "polars_list_of_categories", frames(log, catalogue.cast({"tags": pl.List(category)}))
    yield "polars_struct", frames(log, catalogue.with_columns(pl.struct("brand", "price").alias("both")))
    yield "polars_int128", frames(log, catalogue.cast({"stock": pl.Int128}))
    yield "polars_float16", frames(log, catalogue.cast({"price": pl.Float16}))
    yield "polars_nanoseconds", frames(log.cast({"timestamp": pl.Datetime("ns")}), catalogue.cast({"released": pl.Date}))
    yield "polars_partitioned", partitioned


def duckdb_sets() -> Iterator[tuple[str, Put]]:
    """What COPY ... TO writes."""
    database = duckdb.connect()
    database.register("events", events())
    database.register("items", items())
    database.sql("create table user_uuid as select user_id, uuid() as u from (select distinct user_id from events)")
    database.sql("create table item_uuid as select item_id, uuid() as u from items")

    def copies(log: str, catalogue: str = "items", partition: str = "") -> Put:
        def put(folder: Path) -> None:
            where, options = (
                (folder / "events", f", partition_by ({partition})") if partition else (folder / "events.parquet", "")
            )
            database.sql(f"copy ({log}) to '{where}' (format parquet{options})")
            database.sql(f"copy (from {catalogue}) to '{folder / 'items.parquet'}' (format parquet)")

        return put

    typed_log = (
        "select * replace (timestamp::timestamptz as timestamp, event_type::enum('view', 'purchase') as event_type) from events"
    )
    typed_items = (
        "(select * replace (price::decimal(9, 2) as price, stock::utinyint as stock, released::date as released, "
        "image::float[4] as image), stock::hugeint as units, {'w': 1} as size, map {'k': 1} as more, true as sold from items)"
    )
    joins = "events e join user_uuid u using (user_id) join item_uuid i using (item_id)"
    joined = f"select e.*, u.u as user_uuid, i.u as item_uuid from {joins}"
    with_uuid = f"select * exclude (user_uuid, item_uuid) replace (user_uuid as user_id, item_uuid as item_id) from ({joined})"
    items_uuid = "(select items.* replace (u as item_id) from items join item_uuid using (item_id))"
    yield "duckdb", copies("from events")
    yield "duckdb_types", copies(typed_log, typed_items)
    yield "duckdb_uuid", copies(with_uuid, items_uuid)
    yield "duckdb_by_type", copies("from events", partition="event_type")
    yield "duckdb_by_month", copies("select *, strftime(timestamp, '%Y-%m') as month from events", partition="month")
    by_day = "select * exclude (timestamp), strftime(timestamp, '%Y-%m-%d') as date from events"
    yield "duckdb_by_day", copies(by_day, partition="date")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
