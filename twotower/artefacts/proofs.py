"""Hashes of files that this process has read, so that a hard link to one of them need not be read again."""

from pathlib import Path

from twotower.artefacts.manifest import sha256

_Identity = tuple[int, int, int, int]  # device, inode, size in bytes, time of the last change to the content in ns


class Proofs:
    """Hashes by the identity of a file. Files of a release are never changed in place, so a link has the hash of its inode."""

    def __init__(self) -> None:
        self._known: dict[_Identity, str] = {}

    def read(self, path: Path) -> str:
        """Hex digest of a file, which is read now and remembered."""
        identity = _identity(path)  # before the file is read: a file that changes meanwhile is not known afterwards
        self._known[identity] = found = sha256(path)
        return found

    def digest(self, path: Path) -> str:
        """Hex digest of a file, which is read unless it is one that `read` has read."""
        return self._known.get(_identity(path)) or sha256(path)


def _identity(path: Path) -> _Identity:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
