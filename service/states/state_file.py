"""User states in a file: those that memory has no room for, and all of them when the server ends, so that the next one has them.

The file is a cache that no answer depends on. A state that is damaged, of another bundle or of another machine costs one history
that is read anew, and is counted. The processes of a server share the file; an id stands in it only as a hash.

L: events
"""

import sqlite3
import sys
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from threading import Semaphore
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from service.histories.history import StoredEvent
from service.states.memory import ArrayMemory, UserKey

VERSION = 1
FILE = "user-states.db"
MAX_WAITING = 64  # states that wait to be written; further ones are dropped, because a request must not wait for the disk
_BUSY_S = 1.0  # how long a write waits for that of another process; reads wait for none
_CHECKPOINTS = 5  # attempts, each of which waits so long
# Errors that say nothing about the content of the file: it is locked, full, or cannot be opened or written.
_HARMLESS = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
}
_TABLE = "CREATE TABLE states (key BLOB PRIMARY KEY, number INTEGER, sum INTEGER, body BLOB)"
_INDEX = "CREATE INDEX states_by_age ON states (number)"
_DELETE_OLDEST = "DELETE FROM states WHERE key IN (SELECT key FROM states ORDER BY number LIMIT 16)"


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """One state in the file. Arrays are their bytes, in the byte order of the machine."""

    space: str  # see `_space_here`
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

    One thread writes, and the engine's thread reads. sqlite3.Error or OSError when no file can be made in the directory.
    """

    def __init__(self, directory: Path, max_bytes: int, failed: Callable[[], object]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._path, self._max_bytes, self._failed = directory / FILE, max_bytes, failed
        self._writer, self._reader = _opened(self._path), _opened(self._path)
        self._writing = ThreadPoolExecutor(1, "user-states")
        self._places = Semaphore(MAX_WAITING)

    def keep(self, key: UserKey, state: State, space: str, wait_s: float = 0.0) -> bool:
        """Write a state soon. False if too many wait already, and still do after `wait_s`. It must not change any more."""
        if not self._places.acquire(timeout=wait_s):
            return False
        self._writing.submit(self._put, key, state, space).add_done_callback(lambda _: self._places.release())
        return True

    def find(self, key: UserKey, space: str, events: Sequence[StoredEvent], memory: ArrayMemory) -> State | None:
        """The state of a user as far as it is of the first of these events; None if there is none. `memory` must be empty."""
        try:
            row = self._reader.execute("SELECT sum, body FROM states WHERE key = ?", (_name(key),)).fetchone()
            if row is None:
                return None
            if not isinstance(row[1], bytes) or zlib.crc32(row[1]) != row[0]:
                raise ValueError("the checksum is wrong")
            kept = msgspec.msgpack.decode(row[1], type=_Kept)
            if kept.space != _space_here(space):
                raise ValueError("it is of another bundle, another dtype or another machine")
            return _restored(kept, events, memory)
        except (sqlite3.Error, ValueError, msgspec.DecodeError):
            self._failed()
            return None

    def forget(self, key: UserKey) -> None:
        """Delete the state of a user, also one that waits to be written, and overwrite it in the file.

        If that cannot be done, the whole file goes. sqlite3.Error or OSError if not even that can be done.
        """
        self._writing.submit(self._delete, key).result()

    def close(self) -> None:
        """Write what waits, and close the file."""
        self._writing.shutdown()
        self._writer.close()
        self._reader.close()

    def _put(self, key: UserKey, state: State, space: str) -> None:
        body = msgspec.msgpack.encode(_kept(state, _space_here(space)))
        try:
            with self._writer as writer:
                writer.execute("BEGIN IMMEDIATE")
                (number,) = writer.execute("SELECT coalesce(max(number), 0) + 1 FROM states").fetchone()
                writer.execute("REPLACE INTO states VALUES (?, ?, ?, ?)", (_name(key), number, zlib.crc32(body), body))
                while _num_bytes(writer) > self._max_bytes and writer.execute(_DELETE_OLDEST).rowcount:
                    pass
        except sqlite3.Error as error:
            self._failed()
            if _is_damaged(error):
                self._begin_anew()

    def _delete(self, key: UserKey) -> None:
        try:
            self._writer.execute("DELETE FROM states WHERE key = ?", (_name(key),))
            # Before a checkpoint the log has the old pages too. It is made while no process reads.
            for _ in range(_CHECKPOINTS):
                (is_busy, _, _) = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                if not is_busy:
                    return
        except sqlite3.Error:
            self._failed()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._writer.close()
        _remove(self._path)
        self._writer, self._reader = _opened(self._path), _opened(self._path)


def _name(key: UserKey) -> bytes:
    """The hash under which a user's state is kept."""
    return blake2b("\0".join(key).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _space_here(space: str) -> str:
    """What a state must have in common with its reader: the bundle, and how this machine rounds."""
    return f"{space} {sys.byteorder} {torch.__version__} {torch.backends.cpu.get_cpu_capability()}"


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
    except sqlite3.Error as error:
        if not _is_damaged(error):
            raise
        _remove(path)
        return _connected(path)


def _is_damaged(error: sqlite3.Error) -> bool:
    """Whether the file itself is to blame."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_NOTADB) & 0xFF not in _HARMLESS


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
