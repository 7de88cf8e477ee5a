"""The ledger of a sweep: which runs are planned, and what the finished ones measured.

While a sweep runs, its ledger is an SQLite file. Only one process writes it. A run that was begun and not finished is still
planned, so a sweep that was killed does it again when it starts again, and does no finished run twice. `export` writes the
finished runs as one Parquet file, small enough to keep beside the code that draws figures from it.
"""

import fcntl
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.errors import DataError

Outcome = Literal["done", "diverged", "failed"]

_TABLE = "CREATE TABLE IF NOT EXISTS runs (place INTEGER PRIMARY KEY, key TEXT UNIQUE, settings TEXT NOT NULL, record TEXT)"
_TIMEOUT_S = 10.0  # for a reader while a run is written, and the other way round


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run is given. Runs of equal settings are the same run."""

    sweep: str  # the grid that it belongs to
    corpus: str  # name and digest of the data
    flops: float  # the budget: every multiplication of both stages counts, see Run.flops_exact
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    share: float  # the embedder's share of all parameters
    batch_windows: int
    max_queries: int
    negatives: int | None  # of stage 2, per step; None is the whole catalogue
    log_q: bool  # whether the negatives of stage 2, half of which are drawn by popularity, are corrected for that
    popular: bool = False  # whether half of the negatives of stage 2 are drawn by popularity
    first_negatives: int = 1024  # of stage 1, per step, drawn uniformly
    frozen_share: float = 0.4  # of the steps: stage 2
    window: int = 256
    page: int = 64
    past_heads: int = 2
    learning_rate: float = 7e-3  # at 512 queries a step
    train_until: float = 1.0  # share of the time until the validation part that is trained on
    periods: int = 0  # of validation and what comes before it, in which a frozen model is measured; 0: the validation part alone
    seed: int = 0

    @property
    def key(self) -> str:
        """A digest of all settings."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:16]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run that ended."""

    key: str  # of its settings
    sweep: str
    corpus: str
    flops: float  # the budget that was asked for
    flops_exact: float  # multiplications and additions of all steps, every term counted
    parameters: int  # of both towers
    share: float  # the embedder's, as it came out
    events: int  # event positions read in training, repeats counted
    distinct_events: int  # in the part of the corpus that is trained on
    batch: int  # queries a step, on average
    negatives: int  # candidates per step of stage 2; the number of items where all are scored
    log_q: bool
    seed: int
    seconds: float  # of training and evaluation
    outcome: Outcome
    reason: str = ""  # why it is not done
    excluded: str = ""  # the rule by which fits leave it out
    metrics: dict[str, float] = {}  # of the validation part; losses and entropy in nats
    settings: dict[str, Any] = {}


class Ledger:
    """The queue and the results of a sweep, in one SQLite file that only one process may have open. Use it as a context."""

    def __init__(self, path: Path) -> None:
        """DataError for a file that is no ledger, or that another process uses."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = path.open("ab")  # SQLite's own locks would keep readers out too
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise DataError(f"another process uses the ledger {path}: wait until it ends, or give another --ledger") from error
        self._connection = sqlite3.connect(path, timeout=_TIMEOUT_S, isolation_level=None)
        try:
            self._connection.execute(_TABLE)
        except sqlite3.DatabaseError as error:
            self.close()
            raise _refused(path, error) from error

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes have it. The file is closed last, because closing it would release SQLite's locks."""
        self._connection.close()
        self._lock.close()

    def plan(self, settings: Iterable[Settings]) -> int:
        """Add runs that are not there yet, and return how many these are."""
        before = self._connection.total_changes
        rows = [(one.key, msgspec.json.encode(one).decode()) for one in settings]
        self._connection.execute("BEGIN")
        self._connection.executemany("INSERT OR IGNORE INTO runs (key, settings) VALUES (?, ?)", rows)
        self._connection.execute("COMMIT")
        return self._connection.total_changes - before

    def open_runs(self) -> list[Settings]:
        """The runs that have not ended, in the order in which they were planned."""
        rows = self._connection.execute("SELECT settings FROM runs WHERE record IS NULL ORDER BY place")
        return [msgspec.json.decode(text, type=Settings) for (text,) in rows]

    def keep(self, run: Run) -> None:
        """Write a run that ended. It is on disk when this returns."""
        changed = self._connection.execute(
            "UPDATE runs SET record = ? WHERE key = ? AND record IS NULL", (msgspec.json.encode(run).decode(), run.key)
        )
        assert changed.rowcount == 1, f"{run.key} was planned and has not ended"

    def runs(self) -> list[Run]:
        """The runs that ended, in the order in which they were planned."""
        return _runs(self._connection)

    def forget(self, outcomes: Iterable[Outcome]) -> int:
        """Put runs of these outcomes back into the queue, and return how many these are."""
        keys = [(run.key,) for run in self.runs() if run.outcome in set(outcomes)]
        self._connection.executemany("UPDATE runs SET record = NULL WHERE key = ?", keys)
        return len(keys)


def read_runs(path: Path) -> list[Run]:
    """The runs of a ledger that ended: of an SQLite file, also while a sweep writes it, or of an exported Parquet file.

    DataError if it is neither.
    """
    if not path.exists():
        raise DataError(f"there is no ledger {path}: `twotower sweep` writes one")
    with path.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    if is_parquet:
        return _runs_of_parquet(path)
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_TIMEOUT_S)) as connection:
            return _runs(connection)
    except sqlite3.DatabaseError as error:
        raise _refused(path, error) from error


def export(runs: Iterable[Run], path: Path) -> None:
    """Write runs as one Parquet file: a column for each of their fields, metrics and settings as JSON."""
    rows = [msgspec.to_builtins(run) for run in runs]
    names = [field.name for field in msgspec.structs.fields(Run)]
    columns: Mapping[str, list[Any]] = {name: [_plain(row[name]) for row in rows] for name in names}
    pq.write_table(pa.table(dict(columns)), path, compression="zstd")


def _runs(connection: sqlite3.Connection) -> list[Run]:
    rows = connection.execute("SELECT record FROM runs WHERE record IS NOT NULL ORDER BY place")
    return [msgspec.json.decode(text, type=Run) for (text,) in rows]


def _runs_of_parquet(path: Path) -> list[Run]:
    rows = pq.read_table(path).to_pylist()
    try:
        return [msgspec.convert({name: _nested(name, value) for name, value in row.items()}, Run) for row in rows]
    except (msgspec.ValidationError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is a Parquet file but no ledger: {error}") from error


def _plain(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else value


def _nested(name: str, value: Any) -> Any:
    return json.loads(value) if name in ("metrics", "settings") else value


def _refused(path: Path, error: sqlite3.DatabaseError) -> DataError:
    return DataError(f"{path} is no ledger ({error}): give the file that `twotower sweep` wrote, or one that is not there yet")
