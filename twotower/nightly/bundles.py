"""The bundles of the nights: which one made what is served, how old it is, and which are still needed."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import msgspec

from twotower.artefacts.bundle import KIND, PROVENANCE
from twotower.artefacts.manifest import MANIFEST, read_manifest
from twotower.artefacts.release import INFO, ReleaseInfo, current_release
from twotower.artefacts.store import RELEASES, Store
from twotower.errors import ArtefactError
from twotower.nightly.status import nights

BUNDLE = "bundle"


def bundle_of(store: Store, release: str) -> str | None:
    """The id of the bundle that made a release; None when the release cannot be read."""
    try:
        return msgspec.json.decode(store.read(f"{RELEASES}/{release}/{INFO}") or b"", type=ReleaseInfo).bundle_id
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def served_bundle(store: Store, folder: Path, first: Path | None) -> Path | None:
    """The bundle that made the current release, among those of the nights and the `first` one; None when it is not here."""
    release = current_release(store)
    wanted = bundle_of(store, release) if release else None
    return next((path for path, name in _found(folder, first) if name == wanted), None)


def _found(folder: Path, first: Path | None) -> Iterator[tuple[Path, str]]:
    for path in [*(night / BUNDLE for night in nights(folder)), *([first] if first else [])]:
        if name := bundle_id(path):
            yield path, name


def bundle_id(path: Path) -> str | None:
    """The id of a bundle; None when there is none, or it cannot be read."""
    try:
        return read_manifest(path, KIND).id
    except (ArtefactError, OSError):
        return None


def trained_on(path: Path) -> date:
    """The day that a bundle was trained on: that of its night, or else the one that its provenance or its file names."""
    try:
        return date.fromisoformat(path.parent.name)
    except ValueError:
        created = json.loads((path / PROVENANCE).read_bytes()).get("created")
        made = datetime.fromisoformat(created) if created else datetime.fromtimestamp((path / MANIFEST).stat().st_mtime, UTC)
        return made.date()
