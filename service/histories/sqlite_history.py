"""Histories in one SQLite file: the default, for one server on one machine.

Writes run on one thread of the store, several in one transaction, and reads on another. The file is in WAL mode, so a read does
not wait for a write that waits for the disk.
"""

import asyncio
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from threading import Lock
from typing import NamedTuple, TypeVar

import msgspec

from service.histories.grouped_writes import GroupedWrites
from service.histories.history import (
    KEPT_EVENT_IDS,
    KEPT_EVENTS,
    KEPT_ITEMS,
    FailureReason,
    Growth,
    HistoryUnavailable,
    PastItem,
    StoredEvent,
    UserHistory,
    in_time_order,
    shared,
)
from twotower.artefacts.sqlite_file import connect, make_tables

T = TypeVar("T")


class _Timed(msgspec.Struct):
    """The time of a stored event."""

    time_ms: int


VERSION = 3
WHAT, OPTION = "histories", "--history"
# latest_ms: the time of the last event, if the kept events are without a gap and their times rise with seq; otherwise NULL.
_UPGRADES = {2: "ALTER TABLE users ADD COLUMN latest_ms INTEGER"}
_TABLES = """
CREATE TABLE users (
    user_id TEXT PRIMARY KEY, epoch TEXT NOT NULL, num_events INTEGER NOT NULL, latest_ms INTEGER
) WITHOUT ROWID;
CREATE TABLE events (
    user_id TEXT, seq INTEGER, tag TEXT NOT NULL, payload BLOB NOT NULL, PRIMARY KEY (user_id, seq)
) WITHOUT ROWID;
CREATE TABLE event_ids (user_id TEXT, event_id TEXT, seq INTEGER NOT NULL, PRIMARY KEY (user_id, event_id)) WITHOUT ROWID;
CREATE INDEX event_ids_by_age ON event_ids (user_id, seq);
CREATE TABLE items (
    user_id TEXT, item_id TEXT, count INTEGER NOT NULL, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL,
    week REAL NOT NULL, month REAL NOT NULL, quarter REAL NOT NULL, event_types BLOB NOT NULL, met INTEGER NOT NULL,
    PRIMARY KEY (user_id, item_id)
) WITHOUT ROWID;
CREATE INDEX items_by_age ON items (user_id, last_ms, item_id);
"""
_ITEM = "count, first_ms, last_ms, week, month, quarter, event_types"
_REASONS: dict[str, FailureReason] = {"SQLITE_FULL": "full", "SQLITE_READONLY": "read_only", "SQLITE_BUSY": "timeout"}
_event = msgspec.json.Decoder(StoredEvent)
_timed = msgspec.json.Decoder(_Timed)
_types = msgspec.json.Decoder(frozenset[str])


@dataclass(slots=True)
class _Head:
    """Epoch, number of events and `latest_ms` of a user, as an append changes them. Times are positive."""

    epoch: str = ""
    num_events: int = 0
    latest_ms: int | None = 0


class Appended(NamedTuple):
    """For each event whether it was new, and what the transaction added to each user."""

    stored: list[bool]
    grown: tuple[Growth, ...]


Write = tuple[StoredEvent, ...] | str  # events to append, or the id of a user to delete
Written = Appended | int


class SqliteHistory:
    """A HistoryStore in the file at `path`. A missing file is created; EnvironmentProblem when the file cannot be used.

    `on_growth` is called on the event loop for each user whose history a write of this store extended, and `on_change` for each
    whose history a write deleted, or may have changed although it failed; both before the writer goes on.
    """

    def __init__(self, path: Path) -> None:
        self._writer = connect(path, WHAT, OPTION)
        make_tables(self._writer, path, WHAT, OPTION, _TABLES, VERSION, _UPGRADES)
        self._reader = connect(path, WHAT, OPTION)
        self._writer_is_taken = Lock()
        self._writes: GroupedWrites[Write, Written] = GroupedWrites("history-write", self._write, self._written)
        self._reading = ThreadPoolExecutor(1, "history-read")
        self.on_growth: Callable[[Growth], None] = lambda _: None
        self.on_change: Callable[[str], None] = lambda _: None

    async def append(self, events: Sequence[StoredEvent]) -> list[bool]:
        """Append in one transaction, which is on the disk when this returns."""
        done = await self._writes(tuple(events))
        assert isinstance(done, Appended)
        return done.stored

    async def read(self, user_id: str, known: UserHistory | None = None) -> UserHistory:
        """Read everything from one consistent snapshot."""
        return await self._read(lambda: read(self._reader, user_id, known))

    async def list_users(self, after: str, prefix: str, limit: int) -> list[tuple[str, int]] | None:
        """The users as their table has them, in the order of the bytes of their ids."""
        return await self._read(lambda: list_users(self._reader, after, prefix, limit))

    async def delete(self, user_id: str) -> int:
        """Delete in one transaction, which is on the disk when this returns."""
        count = await self._writes(user_id)
        assert isinstance(count, int)
        return count

    async def close(self) -> None:
        """Wait for running calls, then close the file."""
        self._writes.close()
        self._reading.shutdown()
        self._writer.close()
        self._reader.close()

    def version(self) -> int | None:
        """A number that changes when anything but this store changes the file; None while this store writes.

        It is known at once: this takes microseconds, and may run on the event loop.
        """
        if not self._writer_is_taken.acquire(blocking=False):
            return None
        try:
            return int(self._writer.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error:
            return None
        finally:
            self._writer_is_taken.release()

    async def _read(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reading, work)
        except (sqlite3.Error, msgspec.DecodeError) as error:
            raise _unavailable(error) from error

    def _write(self, writes: Sequence[Write]) -> list[Written | Exception]:
        outcomes: list[Written | Exception] = []
        with self._writer_is_taken:
            for is_deletion, group in groupby(writes, lambda write: isinstance(write, str)):
                if is_deletion:
                    outcomes += [_attempt(lambda: delete(self._writer, str(user))) for user in group]  # noqa: B023 # called at once
                else:
                    outcomes += self._append([events for events in group if not isinstance(events, str)])
        return outcomes

    def _append(self, appends: "Sequence[tuple[StoredEvent, ...]]") -> "Sequence[Appended | Exception]":
        """All in one transaction. If it fails over the data of some users, each gets its own, so that only theirs fail."""
        done = _attempt(lambda: append(self._writer, [event for events in appends for event in events]))
        if not isinstance(done, Exception):
            stored = iter(done.stored)
            each = [Appended(list(islice(stored, len(events))), ()) for events in appends]
            return [each[0]._replace(grown=done.grown), *each[1:]]
        is_theirs = not isinstance(done.__cause__, sqlite3.OperationalError)
        if len(appends) == 1 or not is_theirs:
            return [done] * len(appends)
        return [outcome for events in appends for outcome in self._append([events])]

    def _written(self, write: Write, outcome: Written | Exception) -> None:
        if isinstance(outcome, Appended):
            for growth in outcome.grown:
                self.on_growth(growth)
        else:
            for user in {write} if isinstance(write, str) else {event.user_id for event in write}:
                self.on_change(user)


def _attempt(work: Callable[[], T]) -> T | Exception:
    try:
        return work()
    except (sqlite3.Error, msgspec.DecodeError) as error:
        unavailable = _unavailable(error)
        unavailable.__cause__ = error
        return unavailable
    except Exception as error:
        return error


def _unavailable(error: Exception) -> HistoryUnavailable:
    reason = _REASONS.get(getattr(error, "sqlite_errorname", ""), "damaged")
    return HistoryUnavailable(f"the history file cannot be used: {error}", reason)


def append(connection: sqlite3.Connection, events: Sequence[StoredEvent]) -> Appended:
    """Store events in one transaction."""
    tag = secrets.token_hex(8)
    with connection:  # commits, or rolls back on an error
        connection.execute("BEGIN IMMEDIATE")
        before = {user: _head(connection, user) for user in {e.user_id for e in events}}
        heads = {user: replace(head) for user, head in before.items()}
        stored = [_append_one(connection, event, heads[event.user_id], tag) for event in events]
        for user, head in heads.items():
            head.epoch = head.epoch or tag
            _trim(connection, user, head)
    return Appended(stored, tuple(_grown(events, stored, before, tag)))


def _grown(events: Sequence[StoredEvent], stored: Sequence[bool], before: dict[str, _Head], tag: str) -> Iterator[Growth]:
    added: dict[str, list[StoredEvent]] = {}
    for event, is_new in zip(events, stored, strict=True):
        if is_new:
            added.setdefault(event.user_id, []).append(event)
    for user, new in added.items():
        yield Growth(user, before[user].epoch, before[user].num_events, tuple(new), tag)


def _head(connection: sqlite3.Connection, user_id: str) -> _Head:
    row = connection.execute("SELECT epoch, num_events, latest_ms FROM users WHERE user_id = ?", (user_id,)).fetchone()
    return _Head(*row) if row else _Head()


def _append_one(connection: sqlite3.Connection, event: StoredEvent, head: _Head, tag: str) -> bool:
    user, seq = event.user_id, head.num_events + 1
    if event.event_id is not None:
        sql = "INSERT OR IGNORE INTO event_ids VALUES (?, ?, ?)"
        if not connection.execute(sql, (user, event.event_id, seq)).rowcount:
            return False
    connection.execute("INSERT INTO events VALUES (?, ?, ?, ?)", (user, seq, tag, msgspec.json.encode(event)))
    if event.item_id is not None:
        _count_item(connection, event, event.item_id, seq)
    head.num_events = seq
    head.latest_ms = event.time_ms if head.latest_ms is not None and event.time_ms >= head.latest_ms else None
    return True


def _count_item(connection: sqlite3.Connection, event: StoredEvent, item_id: str, seq: int) -> None:
    sql = f"SELECT {_ITEM}, met FROM items WHERE user_id = ? AND item_id = ?"  # noqa: S608 - _ITEM is a constant
    row = connection.execute(sql, (event.user_id, item_id)).fetchone()
    past, met = PastItem.after(_past_item(row[:-1]) if row else None, event), row[-1] if row else seq
    values = (past.count, past.first_ms, past.last_ms, *past.decayed, msgspec.json.encode(sorted(past.event_types)), met)
    connection.execute("INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (event.user_id, item_id, *values))
    if row is None and seq > KEPT_ITEMS:  # before, there cannot be more items than may be kept
        connection.execute(
            "DELETE FROM items WHERE user_id = ?1 AND item_id IN"
            " (SELECT item_id FROM items WHERE user_id = ?1 ORDER BY last_ms DESC, item_id DESC LIMIT -1 OFFSET ?2)",
            (event.user_id, KEPT_ITEMS),
        )


def _past_item(row: tuple[int, int, int, float, float, float, bytes]) -> PastItem:
    count, first_ms, last_ms, week, month, quarter, types = row
    return PastItem(count, first_ms, last_ms, (week, month, quarter), shared(_types.decode(types)))


def _trim(connection: sqlite3.Connection, user_id: str, head: _Head) -> None:
    """Delete the events and event ids beyond the bounds, and store the head."""
    if head.num_events > KEPT_EVENTS and head.latest_ms is not None:
        connection.execute("DELETE FROM events WHERE user_id = ? AND seq <= ?", (user_id, head.num_events - KEPT_EVENTS))
    elif head.num_events > KEPT_EVENTS:
        head.latest_ms = _trim_by_time(connection, user_id, head.num_events)
    if head.num_events > KEPT_EVENT_IDS:
        connection.execute("DELETE FROM event_ids WHERE user_id = ? AND seq <= ?", (user_id, head.num_events - KEPT_EVENT_IDS))
    values = (user_id, head.epoch, head.num_events, head.latest_ms)
    connection.execute("INSERT OR REPLACE INTO users VALUES (?, ?, ?, ?)", values)


def _trim_by_time(connection: sqlite3.Connection, user_id: str, last_seq: int) -> int | None:
    """Delete the earliest events by time, and return `latest_ms`.

    The event that arrived last always stays, because its number and tag tell readers what they have.
    """
    rows = connection.execute("SELECT seq, payload FROM events WHERE user_id = ? ORDER BY seq", (user_id,)).fetchall()
    by_seq = [(_timed.decode(payload).time_ms, seq) for seq, payload in rows]
    gone = {seq for _, seq in sorted(by_seq)[:-KEPT_EVENTS] if seq != last_seq}
    connection.executemany("DELETE FROM events WHERE user_id = ? AND seq = ?", [(user_id, seq) for seq in gone])
    kept = [(time_ms, seq) for time_ms, seq in by_seq if seq not in gone]
    is_plain = kept == sorted(kept) and kept[0][1] == last_seq - len(kept) + 1
    return kept[-1][0] if is_plain else None


def read(connection: sqlite3.Connection, user_id: str, known: UserHistory | None = None) -> UserHistory:
    """A user's history, read in one transaction; `known` as in HistoryStore.read."""
    with connection:
        connection.execute("BEGIN")
        head = _head(connection, user_id)
        first = known.num_events if known is not None and known.epoch == head.epoch else 0
        sql = "SELECT seq, tag, payload FROM events WHERE user_id = ? AND seq >= ? ORDER BY seq"
        rows = connection.execute(sql, (user_id, first)).fetchall()
        # Events that arrived too late to be kept leave gaps; then the kept events after the known ones are not all.
        is_whole = len(rows) == head.num_events - first + 1
        if known is not None and first and is_whole and rows and rows[0][:2] == (first, known.tag):
            new = [_event.decode(payload) for _, _, payload in rows[1:]]
            return known.extended(new, rows[-1][1]) if new else known
        if first:
            rows = connection.execute(sql, (user_id, 0)).fetchall()
        sql = f"SELECT item_id, {_ITEM} FROM items WHERE user_id = ? ORDER BY met"  # noqa: S608 - _ITEM is a constant
        items = {item: _past_item(row) for item, *row in connection.execute(sql, (user_id,))}
    if known is not None and known.num_events == head.num_events == 0:
        return known
    events = in_time_order(tuple(_event.decode(payload) for _, _, payload in rows))[-KEPT_EVENTS:]
    return UserHistory(events, head.num_events, items, head.epoch, rows[-1][1] if rows else "")


def list_users(connection: sqlite3.Connection, after: str, prefix: str, limit: int) -> list[tuple[str, int]]:
    """Ids and numbers of events of users after an id; those that begin with `prefix` lie side by side in the table."""
    sql = "SELECT user_id, num_events FROM users WHERE user_id > ? AND user_id >= ? ORDER BY user_id LIMIT ?"
    found = connection.execute(sql, (after, prefix, limit)).fetchall()
    return [(user_id, count) for user_id, count in found if user_id.startswith(prefix)]


def delete(connection: sqlite3.Connection, user_id: str) -> int:
    """Delete a user from all tables and from the disk; returns how many events were ever stored."""
    count = _delete(connection, user_id)
    empty_log(connection)
    return count


def expire(connection: sqlite3.Connection, before_ms: int) -> int:
    """Delete all users whose last event is older; returns how many there were."""
    old = [user for latest_ms, user in _last_events(connection) if latest_ms < before_ms]
    for user in old:
        _delete(connection, user)
    empty_log(connection)
    return len(old)


def recent_users(connection: sqlite3.Connection, since_ms: int) -> list[str]:
    """Users whose last event is of that moment or later, in the order of their last events."""
    return [user for latest_ms, user in sorted(_last_events(connection)) if latest_ms >= since_ms]


def empty_log(connection: sqlite3.Connection) -> None:
    """Move the write-ahead log into the file and cut it to nothing, because it still holds what was deleted.

    A reader at work may prevent that for the moment; then the log is overwritten later.
    """
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _delete(connection: sqlite3.Connection, user_id: str) -> int:
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        count = _head(connection, user_id).num_events
        for table in ("users", "events", "event_ids", "items"):
            connection.execute(f"DELETE FROM {table} WHERE user_id = ?", (user_id,))  # noqa: S608 - the names are constants
    return count


def _last_events(connection: sqlite3.Connection) -> list[tuple[int, str]]:
    """The time of the last event of every user."""
    heads = connection.execute("SELECT user_id, latest_ms FROM users").fetchall()
    return [(latest_ms or _latest_ms(connection, user), user) for user, latest_ms in heads]


def _latest_ms(connection: sqlite3.Connection, user_id: str) -> int:
    rows = connection.execute("SELECT payload FROM events WHERE user_id = ?", (user_id,))
    return max((_timed.decode(payload).time_ms for (payload,) in rows), default=0)
