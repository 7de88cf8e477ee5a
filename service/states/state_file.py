"""User states in a file: those that memory has no room for, and all of them when the server ends, so that the next one has them.

The file is a cache that no answer depends on. A state that is damaged, of another bundle or of another machine costs one history
that is read anew, and is counted. The processes of a server share the file; an id stands in it only as a hash.

L: events
"""

import queue
import sqlite3
import sys
import threading
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from service.histories.history import StoredEvent
from service.states.memory import ArrayMemory

VERSION = 1
FILE = "user-states.db"
MAX_WAITING = 64  # states that wait to be written; further ones are dropped, because a request must not wait for the disk
_BUSY_S = 0.05  # how long a read waits for another process
_TABLE = "CREATE TABLE states (key BLOB PRIMARY KEY, number INTEGER, sum INTEGER, body BLOB)"
_INDEX = "CREATE INDEX states_by_age ON states (number)"
_DELETE_OLDEST = "DELETE FROM states WHERE key IN (SELECT key FROM states ORDER BY number LIMIT 16)"

Key = tuple[str, str]  # of a user or session, as in `service.states.cache`


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """One state in the file. Arrays are their bytes, in the byte order of the machine."""

    space: str  # see `_space`
    events: bytes  # the hash of each event, uint64 [L]
    prints: bytes  # fingerprint of the item vector of each event, uint64 [L]
    keys: bytes
    values: bytes
    last: bytes | None  # the hidden state after the last event


class State(NamedTuple):
    """What was read of a history: its first events, the memory of them, and the fingerprints of their item vectors."""

    events: Sequence[StoredEvent]
    memory: ArrayMemory
    prints_L: npt.NDArray[np.uint64]


class StateFile:
    """User states in a file of at most `max_bytes`, of the kind of machine that this is. `failed` is called for every trouble.

    sqlite3.Error or OSError when no file can be made in the directory.
    """

    def __init__(self, directory: Path, max_bytes: int, failed: Callable[[], object]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._path, self._max_bytes, self._failed = directory / FILE, max_bytes, failed
        self._connection = _opened(self._path)
        self._lock = threading.Lock()  # of the connection
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._work, name="user-states", daemon=True)
        self._thread.start()

    def keep(self, key: Key, state: State, bundle_id: str, wait_s: float = 0.0) -> bool:
        """Write a state soon. False if too many wait already, and still do after `wait_s`. It must not change any more."""
        try:
            self._waiting.put(partial(self._put, key, state, bundle_id), wait_s > 0, wait_s)
        except queue.Full:
            return False
        return True

    def find(self, key: Key, bundle_id: str, events: Sequence[StoredEvent], memory: ArrayMemory) -> State | None:
        """The state of a user as far as it is of the first of these events; None if there is none. `memory` must be empty."""
        try:
            with self._lock:
                row = self._connection.execute("SELECT sum, body FROM states WHERE key = ?", (_name(key),)).fetchone()
            if row is None:
                return None
            if zlib.crc32(row[1]) != row[0]:
                raise ValueError("the checksum is wrong")
            kept = msgspec.msgpack.decode(row[1], type=_Kept)
            if kept.space != _space(bundle_id):
                raise ValueError("it is of another bundle, or of another machine")
            return _restored(kept, events, memory)
        except (sqlite3.Error, ValueError):
            self._failed()
            return None

    def forget(self, key: Key) -> None:
        """Delete the state of a user, also one that waits to be written, and overwrite it in the file."""
        done = threading.Event()

        def delete() -> None:
            try:
                with self._lock:
                    self._connection.execute("DELETE FROM states WHERE key = ?", (_name(key),))
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.Error:
                self._begin_anew()
            finally:
                done.set()

        self._waiting.put(delete)
        done.wait()

    def close(self) -> None:
        """Write what waits, and close the file."""
        self._waiting.put(None)
        self._thread.join()
        self._connection.close()

    def _work(self) -> None:
        while (work := self._waiting.get()) is not None:
            work()

    def _put(self, key: Key, state: State, bundle_id: str) -> None:
        body = msgspec.msgpack.encode(_kept(state, _space(bundle_id)))
        try:
            with self._lock, self._connection as connection:
                connection.execute("BEGIN IMMEDIATE")
                (number,) = connection.execute("SELECT coalesce(max(number), 0) + 1 FROM states").fetchone()
                connection.execute("REPLACE INTO states VALUES (?, ?, ?, ?)", (_name(key), number, zlib.crc32(body), body))
                while _num_bytes(connection) > self._max_bytes and connection.execute(_DELETE_OLDEST).rowcount:
                    pass
        except sqlite3.Error as error:
            self._failed()
            if not isinstance(error, sqlite3.OperationalError):  # which a full disk or a lock of another process is
                self._begin_anew()

    def _begin_anew(self) -> None:
        with self._lock:
            self._connection.close()
            _remove(self._path)
            self._connection = _opened(self._path)


def _name(key: Key) -> bytes:
    """The hash under which a user's state is kept."""
    return blake2b("\0".join(key).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _space(bundle_id: str) -> str:
    """What a state must have in common with its reader: the bundle, and how this machine rounds."""
    return f"{bundle_id} {sys.byteorder} {torch.__version__} {torch.backends.cpu.get_cpu_capability()}"


def _kept(state: State, space: str) -> _Kept:
    memory, length = state.memory, state.memory.length
    keys, values = (np.ascontiguousarray(part[:, :, :length]).tobytes() for part in (memory.keys_LGCE, memory.values_LGCE))
    last = None if memory.last_D is None else memory.last_D.tobytes()
    return _Kept(space, hashes(state.events[:length]).tobytes(), state.prints_L[:length].tobytes(), keys, values, last)


def hashes(events: Sequence[StoredEvent]) -> npt.NDArray[np.uint64]:
    """A 64-bit hash [L] of each event and all of its fields."""
    encode = msgspec.msgpack.encode
    return np.frombuffer(b"".join(blake2b(encode(event), digest_size=8).digest() for event in events), np.uint64)


def _restored(kept: _Kept, events: Sequence[StoredEvent], memory: ArrayMemory) -> State:
    """The state as far as it is of these events. ValueError for arrays of other sizes."""
    known_L, prints_L = np.frombuffer(kept.events, np.uint64), np.frombuffer(kept.prints, np.uint64)
    num = min(len(known_L), len(events))
    different = np.flatnonzero(known_L[:num] != hashes(events[:num]))
    length = int(different[0]) if len(different) else num
    layers, groups, _, width = memory.keys_LGCE.shape
    shape = (layers, groups, len(known_L), width)
    keys_LGLE, values_LGLE = (np.frombuffer(part, np.float32).reshape(shape) for part in (kept.keys, kept.values))
    if len(prints_L) != len(known_L):
        raise ValueError("there is not one fingerprint for each event")
    memory.make_room(length)
    memory.keys_LGCE[:, :, :length], memory.values_LGCE[:, :, :length] = keys_LGLE[:, :, :length], values_LGLE[:, :, :length]
    memory.length = length
    if kept.last is not None and length == len(known_L):
        memory.last_D = np.frombuffer(kept.last, np.float32).copy()
    return State(events[:length], memory, prints_L[:length].copy())


def _num_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the file that are in use."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _opened(path: Path) -> sqlite3.Connection:
    """A connection to the file, which is made anew if it is damaged or of another version. sqlite3.Error if that fails too."""
    try:
        return _connected(path)
    except sqlite3.Error:
        _remove(path)
        return _connected(path)


def _remove(path: Path) -> None:
    for file in (path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))):
        file.unlink(missing_ok=True)


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")  # after a power cut the file may be damaged, and then it is made anew
        connection.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten in the file too
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found == 0:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                    connection.execute(_TABLE)
                    connection.execute(_INDEX)
                    connection.execute(f"PRAGMA user_version = {VERSION}")
        elif found != VERSION:
            raise sqlite3.DatabaseError(f"{path} is of version {found}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
