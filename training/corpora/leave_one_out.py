"""Leave-one-out benchmarks: one user per line, `user item item ...` in time order, and a JSON of item attributes.

The files have no times. So each user's events are dated one day apart, and the last event of every user falls on the same day.
Then the time split of the schema is leave-one-out: the last event of every user is for test, the one before for validation, the
rest for training. The schema says `clock = false`, because a model that reads these dates would recognise the last day.
"""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.artefacts.manifest import staging
from twotower.data.features import DAY_MS
from twotower.data.schema import EventColumns, ItemColumns, Schema, Split, dump_schema, utc_ms
from twotower.errors import DataError

LAST_DAY = datetime(2014, 7, 23, tzinfo=UTC)
SCHEMA = Schema(
    events=EventColumns(clock=False),
    items=ItemColumns(features={"attributes": "list"}),
    split=Split(validation_from=LAST_DAY - timedelta(days=1), test_from=LAST_DAY),
)
MIN_EVENTS = 3  # per user: one each for training, validation and test


def prepare(sequences: Path, attributes: Path, out: Path) -> tuple[int, int]:
    """Write events.parquet, items.parquet and schema.toml into `out`. Returns the numbers of events and of items."""
    users, histories = read_sequences(sequences)
    known = read_attributes(attributes)
    items = sorted({item for history in histories for item in history}, key=lambda i: (len(i), i))
    with staging(out.parent) as directory:
        events = events_table(users, histories)
        pq.write_table(events, directory / "events.parquet")
        described = pa.array([known.get(item) for item in items], pa.list_(pa.string()))
        pq.write_table(pa.table({"item_id": items, "attributes": described}), directory / "items.parquet")
        (directory / "schema.toml").write_text(dump_schema(SCHEMA))
        out.mkdir(parents=True, exist_ok=True)
        for file in sorted(directory.iterdir()):
            file.replace(out / file.name)
    return len(events), len(items)


def read_sequences(path: Path) -> tuple[list[str], list[list[str]]]:
    """User ids and the items of each, oldest first. DataError for a line that is too short, and for repeated users."""
    users: list[str] = []
    histories: list[list[str]] = []
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}. Give the file with one user per line.") from error
    for number, line in enumerate(lines, start=1):
        user, *items = line.split() or [""]
        if len(items) < MIN_EVENTS:
            raise DataError(f"{path}:{number}: {len(items)} items; leave-one-out needs {MIN_EVENTS} or more of every user")
        users.append(user)
        histories.append(items)
    if len(set(users)) < len(users) or not users:
        raise DataError(f"{path}: {len(users)} lines of {len(set(users))} users; every user needs one line")
    return users, histories


def read_attributes(path: Path) -> dict[str, list[str]]:
    """Attributes of each item as strings."""
    try:
        content = json.loads(path.read_bytes())
        return {item: [str(value) for value in values] for item, values in content.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"cannot read {path}: {error}. Give a JSON object of lists, one per item.") from error


def events_table(users: list[str], histories: list[list[str]]) -> pa.Table:
    """One event per item. The last event of every user is on LAST_DAY, and each other one is a day before the next."""
    sizes = np.array([len(h) for h in histories])
    ends = np.repeat(np.cumsum(sizes), sizes)
    days_before = ends - 1 - np.arange(sizes.sum())
    return pa.table(
        {
            "user_id": np.repeat(np.array(users), sizes),
            "item_id": [item for history in histories for item in history],
            "timestamp": pa.array(utc_ms(LAST_DAY) - days_before * DAY_MS, pa.timestamp("ms", "UTC")),
            "event_type": pa.array(["review"]).take(pa.array(np.zeros(sizes.sum(), np.int32))),
        }
    )
