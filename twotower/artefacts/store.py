"""The place where releases are stored, behind one interface: a directory here, a bucket in object_store.py.

STORE/pointers/<sequence>.json   a release to serve, and since when; each file is written once, and numbers only grow
STORE/CURRENT                    a copy of the newest pointer, for people and for programs that read one file
STORE/releases/<id>/             one directory per release, manifest last
"""

import fcntl
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from twotower.artefacts.manifest import move_into_place, sync
from twotower.artefacts.signature import Verifier
from twotower.errors import StoreError

RELEASES = "releases"
RELEASE_ID = re.compile("release-[0-9a-f]{12}")  # checked before an id becomes part of a path
LOCK = ".lock"
GRACE_MINUTES = 60.0  # a server may take so long to load a release that is no longer current
LEFT_BEHIND_S = 7 * 86_400  # longer than any build or upload


class Store(Protocol):
    """What publishing and serving need from a store. Keys are relative paths; StoreError when the store cannot be reached."""

    @property
    def local(self) -> Path:
        """A directory store on this machine: the store itself, or the cache of a bucket."""

    def read(self, key: str) -> bytes | None:
        """Content of a small file; None when there is none."""

    def create(self, key: str, content: bytes) -> bool:
        """Write a small file, whole and durable; False when there is one. On a directory, only inside `exclusive`."""

    def replace(self, key: str, content: bytes) -> None:
        """Write a small file, whole and durable, over one that may be there."""

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted."""

    def delete(self, key: str) -> None:
        """Remove a small file, which may be gone already."""

    def releases(self) -> dict[str, float]:
        """Ids of the releases and when each was written (seconds since 1970), oldest first."""

    def add(self, directory: Path, release: str) -> None:
        """Put a sealed directory into the store as `release`, manifest last, in place of a damaged one of that id."""

    def reread(self, release: str, signed_by: Verifier | None) -> AbstractContextManager[Path]:
        """A directory with the release's files as the store has them now; ArtefactError when one is missing or damaged."""

    def retire(self, release: str, wanted: Callable[[], bool]) -> bool:
        """Mark a release for removal by `sweep`, unless `wanted` says that it is needed; False when it is."""

    def sweep(self) -> None:
        """Remove retired and damaged releases, and files that killed runs left long ago."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Lock the pointer and the releases against other writers, where the store has locks."""


@dataclass(frozen=True, slots=True)
class LocalStore:
    """A Store in a directory."""

    local: Path

    def __str__(self) -> str:
        return str(self.local)

    def read(self, key: str) -> bytes | None:
        """See Store."""
        try:
            return (self.local / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def create(self, key: str, content: bytes) -> bool:
        """See Store."""
        if (self.local / key).exists():
            return False
        self.replace(key, content)
        return True

    def replace(self, key: str, content: bytes) -> None:
        """See Store."""
        path = self.local / key
        with _writing(self):
            path.parent.mkdir(exist_ok=True)
            staged = path.with_name(f".{path.name}")
            staged.write_bytes(content)
            sync(staged)
            staged.replace(path)
            sync(path.parent)
            sync(self.local)

    def names(self, folder: str) -> list[str]:
        """See Store."""
        return sorted(p.name for p in (self.local / folder).glob("[!.]*"))

    def delete(self, key: str) -> None:
        """See Store."""
        with _writing(self):
            (self.local / key).unlink(missing_ok=True)

    def releases(self) -> dict[str, float]:
        """See Store."""
        paths = [p for p in (self.local / RELEASES).glob("release-*") if RELEASE_ID.fullmatch(p.name) and _is_directory(p)]
        return {name: time_s for time_s, name in sorted((p.stat().st_mtime, p.name) for p in paths)}

    def add(self, directory: Path, release: str) -> None:
        """See Store."""
        path = self.local / RELEASES / release
        with _writing(self):
            if path.exists():
                path.rename(path.with_name(f".damaged-{path.name}-{time.time_ns()}"))
            move_into_place(directory, path)

    @contextmanager
    def reread(self, release: str, signed_by: Verifier | None) -> Iterator[Path]:  # noqa: ARG002 # whoever reads it checks
        """See Store. It is the directory itself."""
        yield self.local / RELEASES / release

    def retire(self, release: str, wanted: Callable[[], bool]) -> bool:
        """See Store."""
        path = self.local / RELEASES / release
        with self.exclusive():
            if wanted():
                return False
            # Renamed first, so that a removal that is cut short leaves no release that looks whole.
            path.rename(path.with_name(f".removed-{path.name}-{time.time_ns()}"))
        return True

    def sweep(self) -> None:
        """See Store."""
        folder, long_ago_s = self.local / RELEASES, time.time() - LEFT_BEHIND_S
        with _writing(self):
            staged = [path for path in folder.glob(".staging-*") if path.stat().st_mtime < long_ago_s]
            for path in (*folder.glob(".removed-*"), *folder.glob(".damaged-*"), *staged):
                shutil.rmtree(path)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """See Store."""
        with _writing(self):
            lock = (self.local / LOCK).open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _is_directory(path: Path) -> bool:
    """Whether it is a directory and no link, which could lead anywhere."""
    return path.is_dir() and not path.is_symlink()


@contextmanager
def _writing(store: LocalStore) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot write to {store}: {error.strerror or error}") from error
