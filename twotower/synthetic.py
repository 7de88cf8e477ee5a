"""Makes a small shop from a seed: every kind of feature, missing values, several event types, tastes and repeat purchases.

It serves tests and load tests. The same seed gives the same files.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.data.schema import EventColumns, ItemColumns, Schema, Split, dump_schema

Groups = npt.NDArray[np.int64]

START = datetime(2025, 1, 1, tzinfo=UTC)
DAYS = 120
_NOUNS = ("bread", "milk", "apples", "rice", "soap", "coffee", "cheese", "pasta", "tea", "olives", "beans", "juice")
_LOOKS = ("fresh", "dark", "light", "organic", "large", "small", "sweet", "salted")


def write_shop(directory: Path, num_users: int = 60, num_items: int = 400, num_events: int = 12_000, seed: int = 0) -> Schema:
    """Write events.parquet, items.parquet and schema.toml into `directory` and return the schema."""
    rng = np.random.default_rng(seed)
    directory.mkdir(parents=True, exist_ok=True)
    groups = rng.integers(0, len(_NOUNS), num_items)
    items = _items(rng, groups)
    pq.write_table(items, directory / "items.parquet")
    events = _events(rng, items.column("item_id").to_pylist(), groups, num_users, num_events)
    pq.write_table(events, directory / "events.parquet", row_group_size=4096)
    schema = Schema(
        events=EventColumns(features={"price_paid": "numeric", "channel": "categorical"}),
        items=ItemColumns(
            title="title",
            features={
                "title": "text",
                "department": "categorical",
                "tags": "list",
                "price": "numeric",
                "released": "time",
                "image": "vector",
            },
        ),
        split=Split(validation_from=START + timedelta(days=DAYS * 0.8), test_from=START + timedelta(days=DAYS * 0.9)),
    )
    (directory / "schema.toml").write_text(dump_schema(schema))
    return schema


def _items(rng: np.random.Generator, groups: Groups) -> pa.Table:
    """Items of twelve kinds; about one value in ten is missing."""
    num_items = len(groups)
    centres = rng.normal(size=(len(_NOUNS), 8))
    images = (centres[groups] + 0.3 * rng.normal(size=(num_items, 8))).astype(np.float32)
    released = [START - timedelta(days=int(d)) for d in rng.integers(0, 900, num_items)]
    columns: dict[str, list[object]] = {
        "item_id": [f"item-{i}" for i in rng.permutation(num_items)],
        "title": [f"{rng.choice(_LOOKS)} {_NOUNS[g]}" for g in groups],
        "department": [f"aisle {g % 4}" for g in groups],
        "tags": [sorted(rng.choice(_LOOKS, rng.integers(1, 4), replace=False).tolist()) for _ in groups],
        "price": [round(float(p), 2) for p in np.exp(rng.normal(1.0, 0.6, num_items))],
        "released": list(released),
        "image": [v.tolist() for v in images],
    }
    for name in list(columns)[1:]:
        for row in np.flatnonzero(rng.random(num_items) < 0.1):
            columns[name][row] = None
    types = {"released": pa.timestamp("ms", "UTC"), "image": pa.list_(pa.float32())}
    return pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()})


def _events(rng: np.random.Generator, item_ids: list[str], groups: Groups, num_users: int, num_events: int) -> pa.Table:
    """Users visit at random times; half of what they take is from their own staples, the rest from favourite kinds.

    A visit is one basket: everything in it shares one time.
    """
    popularity = 1 / np.arange(1, len(groups) + 1) ** 0.8
    favourites = rng.integers(0, len(_NOUNS), (num_users, 2))
    staples: list[list[int]] = [[] for _ in range(num_users)]
    visits = np.sort(rng.integers(0, DAYS * 86_400, num_events // 6))
    columns: dict[str, list[object]] = {n: [] for n in ("user_id", "item_id", "timestamp", "event_type", "price_paid", "channel")}
    for second in visits:
        user = int(rng.integers(num_users))
        liked = popularity * np.where(np.isin(groups, favourites[user]), 20.0, 1.0)
        fresh = rng.choice(len(groups), 3, replace=False, p=liked / liked.sum()).tolist()
        again = rng.choice(staples[user], min(3, len(staples[user])), replace=False).tolist() if staples[user] else []
        staples[user].extend(i for i in fresh[:1] if i not in staples[user])
        for row in dict.fromkeys(again + fresh):
            columns["user_id"].append(f"user-{user}")
            columns["item_id"].append(item_ids[row])
            columns["timestamp"].append(START + timedelta(seconds=int(second)))
            columns["event_type"].append("view" if row in fresh[1:] else "purchase")
            columns["price_paid"].append(None if rng.random() < 0.1 else round(float(rng.gamma(2.0, 2.0)), 2))
            columns["channel"].append("web" if rng.random() < 0.7 else "store")
    return pa.table(columns, schema=_EVENT_COLUMNS)


_EVENT_COLUMNS = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", pa.timestamp("ms", "UTC")),
        ("event_type", pa.string()),
        ("price_paid", pa.float64()),
        ("channel", pa.string()),
    ]
)
