"""Directories that exist whole or not at all: built aside, hashed, synced and renamed, and verified before they are read."""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from twotower.artefacts.signature import SIGNATURE, Verifier
from twotower.errors import EnvironmentProblem, FormatError, IntegrityError

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # what msgspec raises for unexpected bytes
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,80}", re.IGNORECASE)


Digest = Callable[[Path], str]
"""Hex digest (SHA-256) of a file: `sha256`, or one that knows files which were read before (see proofs.py)."""


class FileEntry(msgspec.Struct, frozen=True):
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The files of a directory, and the artefact it was made from. It is written last: a directory without one is no artefact."""

    kind: str
    format_version: int
    id: str
    parent: str | None
    files: dict[str, FileEntry]


@contextmanager
def staging(parent: Path) -> Iterator[Path]:
    """Yield a new directory on the file system of `parent`, and remove it at the end unless it was moved into place."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix=".staging-", dir=parent))
    except OSError as error:
        raise EnvironmentProblem(f"cannot write to {parent}: {error.strerror or error}. Choose another directory.") from error
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def sha256(path: Path) -> str:
    """Hex digest of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(directory: Path, kind: str, parent: str | None, digest: Digest = sha256) -> Manifest:
    """Hash and sync every file, then write the manifest. Equal content gives an equal id."""
    files = {f.name: FileEntry(f.stat().st_size, digest(f)) for f in sorted(directory.iterdir())}
    manifest = Manifest(kind=kind, format_version=FORMAT_VERSION, id=content_id(kind, files), parent=parent, files=files)
    for name in files:
        sync(directory / name)
    (directory / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    sync(directory / MANIFEST)
    sync(directory)
    return manifest


def move_into_place(directory: Path, path: Path) -> None:
    """Rename a sealed directory to its final path, which must not exist."""
    refuse_existing(path)
    directory.chmod(0o755)
    directory.rename(path)
    sync(path.parent)


def refuse_existing(path: Path) -> None:
    """EnvironmentProblem when `path` exists. Call it before the work whose result goes there."""
    if path.exists():
        raise EnvironmentProblem(f"{path} exists already: choose another place, or delete it first")


def verify_directory(path: Path, kind: str, signed_by: Verifier | None = None, digest: Digest = sha256) -> Manifest:
    """Hash every file of a directory and return its manifest; IntegrityError or FormatError when one is not as listed."""
    manifest = read_manifest(path, kind, signed_by)
    for name, entry in manifest.files.items():
        file = path / name
        if file.is_symlink() or not file.is_file():
            raise IntegrityError(f"{path}: {name} is missing or is not a plain file. {_MEND[kind]}")
        if file.stat().st_size != entry.size or digest(file) != entry.sha256:
            raise IntegrityError(f"{path}: {name} is not the file that was published (size or sha256 differs). {_MEND[kind]}")
    return manifest


def read_manifest(path: Path, kind: str, signed_by: Verifier | None = None) -> Manifest:
    """The manifest of a directory, with signature (if `signed_by` is given), format and names checked. No file is hashed."""
    raw, signature = _read_plain(path / MANIFEST), _read_plain(path / SIGNATURE)
    if raw is None:
        raise IntegrityError(f"{path} is not a {kind}: it has no {MANIFEST}. {_MEND[kind]}")
    return parse_manifest(str(path), kind, raw, signature, signed_by)


def parse_manifest(where: str, kind: str, raw: bytes, signature: bytes | None, signed_by: Verifier | None) -> Manifest:
    """As `read_manifest`, of the bytes of a manifest. `where` names the place in messages."""
    if signed_by is not None:
        signed_by.check(where, raw, signature)  # before parsing, because anyone may have written these bytes
    try:
        version = msgspec.json.decode(raw, type=dict[str, object]).get("format_version")
        if version != FORMAT_VERSION:
            raise FormatError(f"{where} has format version {version}, this program reads {FORMAT_VERSION}. {_MEND[kind]}")
        manifest = msgspec.json.decode(raw, type=Manifest)
    except UNREADABLE as error:
        raise IntegrityError(f"{where}/{MANIFEST} cannot be read: {error}. {_MEND[kind]}") from error
    if manifest.kind != kind:
        raise FormatError(f"{where} is a {manifest.kind}, not a {kind}")
    for name in manifest.files:
        if not _NAME.fullmatch(name) or name in (MANIFEST, SIGNATURE):
            raise IntegrityError(f"{where}/{MANIFEST} names a file outside its directory: {name!r}")
    if manifest.id != content_id(kind, manifest.files):
        raise IntegrityError(f"{where}/{MANIFEST}: the id does not follow from the files it lists. {_MEND[kind]}")
    return manifest


def content_id(kind: str, files: dict[str, FileEntry]) -> str:
    """The artefact's id: its kind and 12 hex digits of the hash of its files' hashes."""
    listing = "".join(f"{name} {entry.sha256}\n" for name, entry in sorted(files.items()))
    return f"{kind}-{hashlib.sha256(listing.encode()).hexdigest()[:12]}"


def _read_plain(path: Path) -> bytes | None:
    """Content of a file; None when it is missing, or a link, which could lead anywhere."""
    return path.read_bytes() if path.is_file() and not path.is_symlink() else None


def sync(path: Path) -> None:
    """Flush a file or a directory entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_MEND = {
    "bundle": "Train it again with `twotower train`.",
    "checkpoint": "Delete the run's directory and train again without --resume.",
    "release": "Publish it again with `twotower embed`, or go back with `twotower releases rollback`.",
}
