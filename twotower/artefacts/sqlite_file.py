"""One SQLite file that survives a power cut, and its tables."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path

from twotower.errors import EnvironmentProblem, FormatError


def sqlite_path(url: str) -> Path | None:
    """The file that `sqlite:///FILE` names, or `sqlite:////FILE` by an absolute path; None for any other URL."""
    kind, _, rest = url.partition("://")
    return Path(rest[1:]) if kind == "sqlite" and len(rest) > 1 and rest.startswith("/") else None


def connect(path: Path, what: str, option: str) -> sqlite3.Connection:
    """A connection that any one thread at a time may use. EnvironmentProblem names the command line's `option`."""
    try:
        connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        # NORMAL could lose what was acknowledged in a power cut: it does not sync the WAL at commit.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten in the file too
    except sqlite3.Error as error:
        raise EnvironmentProblem(
            f"cannot keep {what} in {path}: {error}. Choose a writable file with {option} sqlite:///PATH."
        ) from error
    return connection


def make_tables(
    connection: sqlite3.Connection, path: Path, what: str, option: str, tables: str, version: int, upgrades: Mapping[int, str]
) -> None:
    """Make the tables of a new file, or bring an older file to this version; FormatError when the file has another version.

    `upgrades` has for an older version the statements that lead to `version`.
    """
    try:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found == 0 or found in upgrades:
            found = _change(connection, {0: tables, **upgrades}, version)
    except sqlite3.Error as error:
        raise EnvironmentProblem(f"cannot keep {what} in {path}: {error}. Choose another file with {option}.") from error
    if found != version:
        raise FormatError(f"{path} holds {what} of version {found}, this program writes {version}. Choose another file.")


def _change(connection: sqlite3.Connection, statements: Mapping[int, str], version: int) -> int:
    """Bring the file to `version` unless another process did; returns the version of the file."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found not in statements:
            return int(found)
        for statement in statements[found].split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version}")
    return version
