"""The work of a stopped run: its vectors.npy, kept under a second name, and a journal of the batches that are complete.

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
from twotower.data.features import Floats
from twotower.errors import EnvironmentProblem
from twotower.tables.ids import Mask

# One batch: a hash of its items, offset and length of its vectors [n, V] in the file, and a checksum of both.
_RECORD = struct.Struct("<16sQQ16s")

Note = Callable[[slice, int, Floats], None]


def work_directory(store: Path) -> Path:
    """Where unfinished work is kept, on the file system of the store. It is removed once a release is published."""
    return store / ".work"


@dataclass(frozen=True, slots=True)
class Work:
    """Batches embedded by runs that published nothing.

    Only whole batches are reused, because the rounding of a matrix product may depend on all of its rows: a run that continues
    then has bit for bit the vectors of one that was never stopped. Vectors are written once, into the release being made, and
    this directory holds a hard link to that file. A checksum excludes a batch that was cut short or has a flipped bit.
    Therefore nothing needs to be synced: what a power cut destroys is embedded again.
    """

    directory: Path  # holds the work of one vector space
    width: int  # D

    def find(self, intake: Intake, fresh_N: Mask) -> dict[int, Floats]:
        """Vectors [n, D] of batches with the same items, mapped from disk, by the place of their first item.

        Files of a stopped run that adds nothing to the others are deleted, so that they do not pile up.
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
        """Keep the file `vectors`, and yield a function that records a batch: its place, offset in the file and rows [n, V]."""
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
            with suppress(OSError):  # without hard links a stopped run cannot be continued
                os.link(vectors, name.with_suffix(".npy"))
            yield note


def _key(intake: Intake, fresh_N: Mask, place: slice) -> bytes:
    """A hash of the items of a batch, and of which of them were embedded together."""
    hasher = xxhash.xxh3_128(np.ascontiguousarray(intake.content_N[place]).data)
    hasher.update(np.packbits(fresh_N[place]).data)
    return hasher.digest()


def _checksum(key: bytes, rows: np.ndarray[tuple[int, ...], np.dtype[np.float32 | np.uint8]]) -> bytes:
    hasher = xxhash.xxh3_128(key)
    hasher.update(np.ascontiguousarray(rows).data)
    return hasher.digest()
