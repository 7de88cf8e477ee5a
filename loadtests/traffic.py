"""Real histories as traffic: chooses users to replay, and turns their events into request bodies."""

import json
import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.events import stream_events
from twotower.data.schema import EventColumns
from twotower.errors import DataError
from twotower.tables.table import open_table

Json = dict[str, Any]

RECOMMEND, EVENTS = "/v1/recommend", "/v1/events"
ROLES = ("user_id", "item_id", "timestamp", "event_type")
SHORTEST_HISTORY = 40  # events; shorter histories end before the load is steady
LONGEST_HISTORY = 400  # at most so many events of a user are replayed
MOST_KNOWN = 200  # events sent before the first request: most of the model's window
NUM_RESULTS = 10
MOMENT_MS = 1000  # time between the last event and the request


@dataclass(frozen=True, slots=True)
class History:
    """The events of one user, oldest first, in the form of POST /v1/events but without user and event ids."""

    user_id: str
    events: tuple[Json, ...]


def write_histories(events: Path, out: Path, num_users: int, columns: EventColumns = EventColumns(), seed: int = 0) -> int:  # noqa: B008  # frozen
    """Choose up to `num_users` users of an event log and write one JSON line for each. Returns the number of lines.

    Reads the log twice as a stream, as training does; `columns` names its roles. Other columns become event properties.
    DataError when a column is missing or no history is long enough.
    """
    table = open_table(events, "events")
    table.require(columns.roles)
    used = (*columns.roles, *ROLES)
    told = [field.name for field in table.schema if field.name not in used and not pa.types.is_nested(field.type)]
    counts: Counter[str] = Counter()
    for batch in stream_events(events, columns):
        counted = pc.value_counts(batch.user_ids)
        counts.update(dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)))
    regular = sorted(user for user, count in counts.items() if user and count >= SHORTEST_HISTORY)
    if not regular:
        raise DataError(f"{events} has no user with {SHORTEST_HISTORY} events: there is nothing to replay")
    chosen = random.Random(seed).sample(regular, min(num_users, len(regular)))
    rows: list[Json] = []
    for batch in stream_events(events, columns, tuple(told)):
        roles = [batch.user_ids, batch.item_ids, pa.array(batch.times_ms_E), batch.event_types]
        read = pa.table([*roles, *batch.features.values()], names=[*ROLES, *batch.features])
        rows += read.filter(pc.is_in(batch.user_ids, pa.array(chosen))).to_pylist()
    histories: dict[str, list[Json]] = {user: [] for user in chosen}
    for row in sorted(rows, key=lambda row: row["timestamp"]):
        if row["item_id"]:
            histories[row["user_id"]].append(event(row))
    with out.open("w") as lines:
        for user, replayed in histories.items():
            lines.write(json.dumps({"user_id": user, "events": replayed[:LONGEST_HISTORY]}, allow_nan=False) + "\n")
    return len(histories)


def event(row: Json) -> Json:
    """One row of the log, its timestamp in epoch milliseconds, as an event of the API.

    Missing values, and types that JSON does not have, are left out.
    """
    told = {name: value for name, value in row.items() if name not in ROLES and tellable(value)}
    return {
        "item_id": row["item_id"],
        "event_type": row["event_type"],
        "timestamp": row["timestamp"],
        "properties": told,
    }


def tellable(value: object) -> bool:
    """Whether the API accepts the value as a property."""
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def read_histories(path: Path) -> list[History]:
    """Read the file that `write_histories` wrote."""
    lines = map(json.loads, path.read_text().splitlines())
    return [History(user_id=line["user_id"], events=tuple(line["events"])) for line in lines]


@dataclass(slots=True)
class Replay:
    """The replay of one history under a new user id, so that replays do not share a user in the history store."""

    user_id: str
    history: History
    told: int = field(default=0, init=False)  # number of events sent so far

    @classmethod
    def start(cls, history: History, suffix: str) -> Self:
        """A replay from the beginning, whose user id ends in `suffix`."""
        return cls(user_id=f"{history.user_id}-{suffix}", history=history)

    @property
    def finished(self) -> bool:
        """Whether all events have been sent."""
        return self.told == len(self.history.events)

    def first_events(self) -> Json:
        """Body of POST /v1/events with the first half of the history, but at most 200 events."""
        return self._tell(min(MOST_KNOWN, len(self.history.events) // 2))

    def next_event(self) -> Json:
        """Body of POST /v1/events with the next event of the history."""
        return self._tell(1)

    def question(self) -> Json:
        """Body of POST /v1/recommend at a moment just after the last event sent, or after the first one if none was sent."""
        last = self.history.events[max(self.told - 1, 0)]
        return {"user_id": self.user_id, "num_results": NUM_RESULTS, "timestamp": last["timestamp"] + MOMENT_MS}

    def _tell(self, num_events: int) -> Json:
        first, self.told = self.told, self.told + num_events
        return {"events": list(self._named(first, self.told))}

    def _named(self, first: int, last: int) -> Iterator[Json]:
        for number in range(first, last):
            yield {**self.history.events[number], "user_id": self.user_id, "event_id": f"{self.user_id}-{number}"}
