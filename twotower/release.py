"""The release: what the service loads. Towers, vectors, index and item table made together, named by one pointer.

STORE/CURRENT              which release is served; replaced whole, its sequence number only grows
STORE/releases/<id>/       one directory per release, manifest last
"""

import fcntl
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from twotower.bundle import TOWER_FILES, read_config
from twotower.errors import ReleaseMismatch, StoreError
from twotower.index.kinds import FILES as INDEX_FILES
from twotower.index.kinds import IndexInfo
from twotower.manifest import Manifest, read_manifest, sync, verify_directory

KIND = "release"
VECTORS, ITEMS = "vectors.npy", "items.arrow"
GOLDEN, GATES, INFO = "golden.json", "gates.json", "release.json"
FILES = (*TOWER_FILES, VECTORS, ITEMS, GOLDEN, GATES, INFO)  # and those of the index's kind
POINTER = "CURRENT"
LOCK = ".lock"
_RELEASE_ID = re.compile(KIND + "-[0-9a-f]{12}")  # nothing else may become part of a path


class ReleaseInfo(msgspec.Struct, frozen=True, kw_only=True):
    """release.json: what the parts must agree on."""

    bundle_id: str
    vector_space_id: str
    num_items: int
    vector_width: int  # embedding and popularity dimensions
    popularity_as_of_ms: int | None
    index: IndexInfo = IndexInfo()


class Pointer(msgspec.Struct, frozen=True, kw_only=True):
    """CURRENT: the release to serve. A rollback is a new pointer with a higher sequence number."""

    sequence: int
    release: str
    previous: str | None
    reason: str
    written_at: datetime


def release_path(store: Path, release: str) -> Path:
    """Directory of a release; StoreError when the store has none of that id."""
    path = store / "releases" / release
    if not _RELEASE_ID.fullmatch(release) or not path.is_dir():
        known = ", ".join(list_releases(store)) or "none"
        raise StoreError(f"{store} has no release {release!r} (it has: {known}). See `twotower releases list --store {store}`.")
    return path


def list_releases(store: Path) -> list[str]:
    """Ids of the releases in a store, oldest first."""
    paths = [p for p in (store / "releases").glob(f"{KIND}-*") if p.is_dir()]
    return [p.name for p in sorted(paths, key=lambda p: (p.stat().st_mtime, p.name))]


def read_pointer(store: Path) -> Pointer:
    """The current pointer; StoreError when nothing has been published."""
    try:
        return msgspec.json.decode((store / POINTER).read_bytes(), type=Pointer)
    except FileNotFoundError:
        raise StoreError(
            f"{store} has no current release: publish one with `twotower embed --bundle B --items I --store {store}`"
        ) from None
    except (msgspec.DecodeError, NotADirectoryError) as error:
        raise StoreError(f"{store / POINTER} cannot be read ({error}): delete it and activate a release") from error


def current_release(store: Path) -> str | None:
    """Id of the current release; None when nothing was ever published."""
    return read_pointer(store).release if (store / POINTER).exists() else None


def write_pointer(store: Path, release: str, reason: str) -> Pointer:
    """Name `release` as current, under the next sequence number. One writer at a time; StoreError when it cannot be written."""
    try:
        with (store / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            current = read_pointer(store) if (store / POINTER).exists() else None
            pointer = Pointer(
                sequence=current.sequence + 1 if current else 1,
                release=release,
                previous=current.release if current else None,
                reason=reason,
                written_at=datetime.now(UTC),
            )
            staged = store / f".{POINTER}"
            staged.write_bytes(msgspec.json.encode(pointer))
            sync(staged)
            staged.replace(store / POINTER)
            sync(store)
    except OSError as error:
        raise StoreError(f"cannot write to {store}: {error.strerror or error}") from error
    return pointer


def verify_release(path: Path) -> tuple[Manifest, ReleaseInfo]:
    """Every hash true, every part present, and all of one vector space; else IntegrityError or ReleaseMismatch."""
    manifest = verify_directory(path, KIND)
    require_files(path, manifest, FILES)
    info = read_info(path)
    require_files(path, manifest, INDEX_FILES[info.index.kind])
    config = read_config(path)
    if config.vector_space_id != info.vector_space_id:
        raise ReleaseMismatch(
            f"{path}: vectors are of space {info.vector_space_id}, the towers of {config.vector_space_id}. "
            f"Publish it again with `twotower embed`."
        )
    if config.model.width + config.model.num_popularity != info.vector_width:
        raise ReleaseMismatch(f"{path}: vectors are {info.vector_width} wide, the towers say otherwise. Publish it again.")
    return manifest, info


def require_files(path: Path, manifest: Manifest, names: Sequence[str]) -> None:
    """ReleaseMismatch unless the manifest lists all of them."""
    if missing := set(names) - set(manifest.files):
        raise ReleaseMismatch(f"{path} lacks {', '.join(sorted(missing))}. Publish it again with `twotower embed`.")


def read_info(path: Path) -> ReleaseInfo:
    """release.json of a release directory whose manifest has been read."""
    try:
        return msgspec.json.decode((path / INFO).read_bytes(), type=ReleaseInfo)
    except (FileNotFoundError, msgspec.DecodeError) as error:
        raise ReleaseMismatch(f"{path / INFO}: {error}. Publish it again with `twotower embed`.") from error


def read_release_manifest(path: Path) -> Manifest:
    """The manifest of a release, its files not yet hashed."""
    return read_manifest(path, KIND)
