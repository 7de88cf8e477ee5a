"""Putting a sealed release into the store: one publisher at a time, moved whole, read back, and only then pointed at."""

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twotower.errors import ArtefactError, EnvironmentProblem, StoreError
from twotower.manifest import Manifest, move_into_place
from twotower.release import GATES, current_release, list_releases, read_release_manifest, verify_release, write_pointer

PUBLISHER_LOCK = ".publisher.lock"


def make_store(store: Path) -> None:
    """The store's directories; EnvironmentProblem when they cannot be made."""
    try:
        (store / "releases").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentProblem(f"cannot write to {store}: {error.strerror or error}. Choose another --store.") from error


@contextmanager
def only_publisher(store: Path) -> Iterator[None]:
    """Keep other runs out of the store until this one ends, however it ends, and remove what killed runs left there.

    StoreError while another run is at work.
    """
    try:
        lock = (store / PUBLISHER_LOCK).open("w")
    except OSError as error:
        raise EnvironmentProblem(f"cannot write to {store}: {error.strerror or error}. Choose another --store.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"another `twotower embed` is publishing to {store}: let it end first") from None
        for left in (store / "releases").glob(".staging-*"):
            shutil.rmtree(left)
        yield


def publish(store: Path, directory: Path, manifest: Manifest) -> tuple[str, bool]:
    """Move a sealed release into the store, read it back, then point at it; its id, and whether it was not current yet.

    A release that is there already, because nothing changed, a run was killed or the catalogue went back, is only pointed
    at; one that is there but damaged is put aside and replaced. What the gates said is no part of what a release is: it
    tells of the release served before, and that is another one each night.
    """
    path = store / "releases" / (same_content(store, manifest) or manifest.id)
    if path.exists() and not is_sound(path):
        path.rename(path.with_name(f".damaged-{path.name}-{time.time_ns()}"))
        path = path.with_name(manifest.id)
    if not path.exists():
        move_into_place(directory, path)
    verify_release(path)
    changed = current_release(store) != path.name
    if changed:
        write_pointer(store, path.name, reason="published by twotower embed")
    return path.name, changed


def served(store: Path) -> Path | None:
    """Directory of the release that is served now; None when there is none."""
    release = current_release(store)
    return None if release is None else store / "releases" / release


def same_content(store: Path, manifest: Manifest) -> str | None:
    """Id of a release in the store that differs in nothing but what its gates said."""
    for release in list_releases(store):
        try:
            known = read_release_manifest(store / "releases" / release)
        except ArtefactError:
            continue
        if known.files | {GATES: None} == manifest.files | {GATES: None}:
            return release
    return None


def is_sound(path: Path) -> bool:
    """Whether a release directory verifies."""
    try:
        verify_release(path)
    except ArtefactError:
        return False
    return True
