"""Changes to the catalogue since the nightly job last read it: items put and items deleted, in one SQLite file.

Every change has a sequence number, and a release contains all changes up to one number. The server applies the later ones.
The nightly job builds in those that no served release contains. The changes that are new in the served release are kept, so
that a rollback of one step can apply them again.
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
# `settled`: the served release contains the changes up to this number.
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
        make_tables(self._connection, path, WHAT, OPTION, _TABLES, VERSION, {})

    def after(self, folded: int) -> Changes:
        """The changes that a release lacks which contains those up to number `folded`."""
        with self._connection as connection:
            connection.execute("BEGIN")
            return _changes(connection, folded)

    def settle(self, folded: int) -> Changes:
        """As `after`, for the release to be served. Changes that neither it nor a rollback of one step needs are deleted."""
        with self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            _, settled = _marks(connection)
            if folded > settled:
                connection.execute("DELETE FROM changes WHERE sequence <= ?", (settled,))
            # A file made after the release must not reuse the numbers of changes that the release contains.
            connection.execute("UPDATE marks SET settled = ?1, sequence = max(sequence, ?1)", (folded,))
            return _changes(connection, folded)

    def write(self, items: Changed) -> None:
        """Store changes in one transaction, which is on the disk when this returns. Only the last change of an item is kept."""
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
    """The changes that the served release lacks, for the nightly job; EnvironmentProblem without such a file.

    A server may write to the file meanwhile: those changes are left to the next night.
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
    """The last sequence number, and the number up to which the served release contains the changes."""
    sequence, settled = connection.execute("SELECT sequence, settled FROM marks").fetchone()
    return int(sequence), int(settled)


def _changes(connection: sqlite3.Connection, after: int) -> Changes:
    sql = "SELECT item_id, features FROM changes WHERE sequence > ? ORDER BY position"
    items = {item: None if f is None else _features.decode(f) for item, f in connection.execute(sql, (after,))}
    return Changes(_marks(connection)[0], items)
