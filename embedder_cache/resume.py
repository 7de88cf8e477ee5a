"""What a run that was stopped had embedded already: one small file per batch, on disk until a release is published.

M: items of a batch that need embedding, D: embedding width
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from twotower.errors import EnvironmentProblem
from twotower.features import Floats, Hashes

_CHECKSUM_BYTES = 16


def work_directory(store: Path) -> Path:
    """Where a run keeps what is no release yet; removed once one is published."""
    return store / ".work"


@dataclass(frozen=True, slots=True)
class Parts:
    """Vectors of whole batches, each named by what all of its items say.

    Items are never taken out of their batch: how a matrix product rounds may depend on the rows that are in it together, and
    so a run that goes on has bit for bit the vectors of one that was never stopped. A file is vectors [M, D] and a checksum
    of them and its name: one that was cut short, or of which a bit has flipped, is not there. Nothing is synced, for the same
    reason: what a power cut takes is embedded again.
    """

    directory: Path
    width: int  # D

    def read(self, content_M: Hashes) -> Floats | None:
        """The vectors of these items, or None when there is no sound file of just them."""
        path = self._path(content_M)
        try:
            raw = path.read_bytes()
        except OSError:
            return None
        body, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
        if len(body) != len(content_M) * self.width * 4 or _checksum(path.name, body) != checksum:
            return None
        return np.frombuffer(body, np.float32).reshape(-1, self.width)

    def write(self, content_M: Hashes, vectors_MD: Floats) -> None:
        """Keep the vectors of a batch; EnvironmentProblem when the disk does not take them."""
        path, body = self._path(content_M), np.ascontiguousarray(vectors_MD, np.float32).data
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(body)
                file.write(_checksum(path.name, body))
        except OSError as error:
            raise EnvironmentProblem(
                f"cannot write to {self.directory}: {error.strerror or error}. Make room there and run the job again: it goes on."
            ) from error

    def _path(self, content_M: Hashes) -> Path:
        return self.directory / xxhash.xxh3_128_hexdigest(np.ascontiguousarray(content_M).data)


def _checksum(name: str, body: bytes | memoryview) -> bytes:
    """Of a file's vectors and its name: a file under another's name is not sound either."""
    hasher = xxhash.xxh3_128(name.encode())
    hasher.update(body)
    return hasher.digest()
