"""What a run that was stopped had embedded already: its vectors.npy, kept under a second name, and a journal of whole batches.

N: items, n: items of a batch, D: embedding width, V: D + popularity dimensions
"""

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from embedder_cache.catalogue.intake import Intake
from twotower.data.faults import Mask
from twotower.data.features import Floats
from twotower.errors import EnvironmentProblem

# Of one batch: what its items say, where its vectors [n, V] lie in the file and how long they are, and a checksum of it all.
_RECORD = struct.Struct("<16sQQ16s")

Note = Callable[[slice, int, Floats], None]


def work_directory(store: Path) -> Path:
    """Where a run keeps what is no release yet; removed once one is published. On the file system of the release being made."""
    return store / ".work"


@dataclass(frozen=True, slots=True)
class Work:
    """Batches that runs embedded which published nothing.

    Items are never taken out of their batch: how a matrix product rounds may depend on the rows that are in it together, and
    so a run that goes on has bit for bit the vectors of one that was never stopped. Vectors are written once, into the release
    being made; here lies a hard link to that file. What was cut short, or of which a bit has flipped, is not there. Nothing is
    synced, for the same reason: what a power cut takes is embedded again.
    """

    directory: Path  # of one vector space
    width: int  # D

    def find(self, intake: Intake, fresh_N: Mask) -> dict[int, Floats]:
        """Vectors [n, D] of batches that were embedded just so, by the place of their first item, mapped from disk.

        A stopped run that has nothing which others do not have is removed: there is no heap of them.
        """
        wanted = {_key(intake, fresh_N, place): place for place in intake.places if fresh_N[place].any()}
        runs = [(path, self._sound(path, wanted)) for path in sorted(self.directory.glob("*.journal"))]
        found: dict[int, Floats] = {}
        for path, batches in sorted(runs, key=lambda run: len(run[1]), reverse=True):
            if not batches.keys() - found.keys():
                path.unlink()
                path.with_suffix(".npy").unlink(missing_ok=True)
            found = batches | found
        return found

    def _sound(self, path: Path, wanted: dict[bytes, slice]) -> dict[int, Floats]:
        try:
            journal = path.read_bytes()
            data = np.memmap(path.with_suffix(".npy"), np.uint8, "r")
        except (OSError, ValueError):  # ValueError: it is empty
            return {}
        batches = {}
        for key, offset, size, checksum in _RECORD.iter_unpack(journal[: len(journal) // _RECORD.size * _RECORD.size]):
            place, raw = wanted.get(key), data[offset : offset + size]
            if place is not None and len(raw) == size and _checksum(key, raw) == checksum:
                batches[place.start] = raw.view(np.float32).reshape(place.stop - place.start, -1)[:, : self.width]
        return batches

    @contextmanager
    def journal(self, vectors: Path, intake: Intake, fresh_N: Mask) -> Iterator[Note]:
        """Keep the file `vectors`, and yield what notes a batch: its place, the offset in the file, and its rows [n, V]."""
        name = self.directory / vectors.parent.name.lstrip(".")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            journal = name.with_suffix(".journal").open("wb", buffering=0)
        except OSError as error:
            raise EnvironmentProblem(
                f"cannot write to {self.directory}: {error.strerror or error}. Choose another --store."
            ) from error

        def note(place: slice, offset: int, rows_nV: Floats) -> None:
            if fresh_N[place].any():
                key = _key(intake, fresh_N, place)
                journal.write(_RECORD.pack(key, offset, rows_nV.nbytes, _checksum(key, rows_nV)))

        with journal:
            with suppress(OSError):  # a file system without hard links: a run that is stopped there begins anew
                os.link(vectors, name.with_suffix(".npy"))
            yield note


def _key(intake: Intake, fresh_N: Mask, place: slice) -> bytes:
    """What the items of a batch say, and which of them were embedded together."""
    hasher = xxhash.xxh3_128(np.ascontiguousarray(intake.content_N[place]).data)
    hasher.update(np.packbits(fresh_N[place]).data)
    return hasher.digest()


def _checksum(key: bytes, rows: np.ndarray[tuple[int, ...], np.dtype[np.float32 | np.uint8]]) -> bytes:
    hasher = xxhash.xxh3_128(key)
    hasher.update(np.ascontiguousarray(rows).data)
    return hasher.digest()
