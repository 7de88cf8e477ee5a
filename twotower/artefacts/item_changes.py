"""What changed in the catalogue since the nightly job last read it: items put and items deleted, in one SQLite file.

Every change has a sequence number. A release says up to which one it holds them. The server serves what comes after that
number, the nightly job folds in what no release served yet holds. The changes that the served release holds and the one before
it did not are kept, so that a rollback of one step serves them again.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from twotower.artefacts.sqlite_file import connect, make_tables, sqlite_path
from twotower.data.raw_items import Features
from twotower.errors import EnvironmentProblem

VERSION = 1
WHAT, OPTION = "item changes", "--delta"
# `settled`: up to where the release that is served holds the changes.
_TABLES = """
CREATE TABLE changes (position INTEGER PRIMARY KEY, item_id TEXT NOT NULL UNIQUE, sequence INTEGER NOT NULL, features BLOB);
CREATE TABLE marks (sequence INTEGER NOT NULL, settled INTEGER NOT NULL);
INSERT INTO marks VALUES (0, 0);
"""
_features = msgspec.json.Decoder(dict[str, object])

Changed = Mapping[str, Features | None]  # by item id, the last change last; None is a deletion


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes up to a sequence number."""

    sequence: int = 0
    items: Changed = field(default_factory=dict)


class DeltaStore:
    """The file at `path`, made when missing. Its methods raise sqlite3.Error and are called by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._connection = connect(path, WHAT, OPTION)
        make_tables(self._connection, path, WHAT, OPTION, _TABLES, VERSION)

    def after(self, folded: int) -> Changes:
        """The changes after `folded`, which is how far some release holds them."""
        with self._connection as connection:
            connection.execute("BEGIN")
            return _changes(connection, folded)

    def settle(self, folded: int) -> Changes:
        """The changes after `folded`, which is how far the release to be served holds them; what nobody needs is forgotten."""
        with self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            _, settled = _marks(connection)
            if folded > settled:
                connection.execute("DELETE FROM changes WHERE sequence <= ?", (settled,))
            # A file newer than the release must not number its changes as those that the release holds.
            connection.execute("UPDATE marks SET settled = ?1, sequence = max(sequence, ?1)", (folded,))
            return _changes(connection, folded)

    def write(self, items: Changed) -> None:
        """Store changes in one transaction, on the disk when this returns. Of an item only the last change is kept."""
        with self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("UPDATE marks SET sequence = sequence + 1")
            sequence, _ = _marks(connection)
            rows = [(item, sequence, None if f is None else msgspec.json.encode(f)) for item, f in items.items()]
            connection.executemany("INSERT OR REPLACE INTO changes (item_id, sequence, features) VALUES (?, ?, ?)", rows)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def read_delta(url: str) -> Changes:
    """The changes that the release served does not hold, for the nightly job; EnvironmentProblem without such a file.

    A server may write to the file meanwhile: what it adds then is left to the next night.
    """
    path = sqlite_path(url)
    if path is None or not path.is_file():
        raise EnvironmentProblem(f"{OPTION} must be sqlite:///FILE, the file that `twotower serve` keeps {WHAT} in")
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0, isolation_level=None)
        try:
            connection.execute("BEGIN")
            return _changes(connection, _marks(connection)[1])
        finally:
            connection.close()
    except (sqlite3.Error, msgspec.DecodeError) as error:
        raise EnvironmentProblem(f"{path} cannot be read as {WHAT}: {error}. Give the file that the server writes.") from error


def _marks(connection: sqlite3.Connection) -> tuple[int, int]:
    """The last sequence number, and up to where changes are settled."""
    sequence, settled = connection.execute("SELECT sequence, settled FROM marks").fetchone()
    return int(sequence), int(settled)


def _changes(connection: sqlite3.Connection, after: int) -> Changes:
    sql = "SELECT item_id, features FROM changes WHERE sequence > ? ORDER BY position"
    items = {item: None if f is None else _features.decode(f) for item, f in connection.execute(sql, (after,))}
    return Changes(_marks(connection)[0], items)
