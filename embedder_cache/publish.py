"""Putting a sealed release into the store: one publisher at a time, moved whole, read back, and only then pointed at."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from embedder_cache.catalogue.opened_release import OpenedRelease, open_release
from twotower.artefacts.manifest import MANIFEST, Manifest, parse_manifest, staging, sync
from twotower.artefacts.release import (
    GATES,
    KIND,
    Address,
    PointerAtStart,
    mend_current,
    newest,
    open_store,
    verify,
    write_pointer,
)
from twotower.artefacts.signature import SIGNATURE, Signer, Verifier
from twotower.artefacts.store import RELEASES, LocalStore, Store
from twotower.errors import ArtefactError, EnvironmentProblem, StoreError
from twotower.progress import say

PUBLISHER_LOCK = ".publisher.lock"


def make_store(store: Path) -> None:
    """The store's directories; EnvironmentProblem when they cannot be made."""
    try:
        (store / "releases").mkdir(parents=True, exist_ok=True)
        sync(store)  # the first pointer must not outlive the directory that holds its release
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


@dataclass(frozen=True, slots=True)
class Publication:
    """One run of the nightly job: from its first look at the store's pointer to its own."""

    store: Store
    at_start: PointerAtStart
    directory: Path  # where the release is built
    signer: Signer | None
    served: OpenedRelease | None  # the release that is served now, opened and hashed once for the whole run

    def publish(self, manifest: Manifest) -> tuple[str, bool]:
        """Put the sealed directory into the store, read it back, then point at it; its id, and whether it was not current yet.

        A release that is there already, because nothing changed, a run was killed or the catalogue went back, is only pointed
        at; one that is there but damaged, or not signed as this one is, is replaced. What the gates said is no part of what a
        release is: it tells of the release served before, and that is another one each night. StoreError when the pointer is
        not the one that was there when the run began.
        """
        signed_by = self.signer.verifier if self.signer else None
        if self.signer:
            (self.directory / SIGNATURE).write_bytes(self.signer.sign((self.directory / MANIFEST).read_bytes()))
            sync(self.directory / SIGNATURE)
            sync(self.directory)
        known = same_content(self.store, manifest, signed_by)
        whole = known is not None and (self._read_already(known) or holds(self.store, known, signed_by))
        release = known if known and whole else manifest.id
        if not whole:
            self.store.add(self.directory, release)
            verify(self.store, release, signed_by)
        pointer = self.at_start.pointer
        changed = pointer is None or (pointer.sequence, pointer.release) != (self.at_start.sequence, release)
        if changed:
            write_pointer(self.store, release, "published by twotower embed", self.at_start)
        if known and known != release:
            self.store.retire(known, lambda: False)  # damaged: no release any more
        return release, changed

    def _read_already(self, release: str) -> bool:
        """Whether this run has hashed the release where the store holds it; of a bucket it has read a copy on this machine."""
        manifest = self.served.manifest if self.served and isinstance(self.store, LocalStore) else None
        return manifest is not None and manifest.id == release


def open_served(store: Store, at_start: PointerAtStart) -> OpenedRelease | None:
    """The release that is served now; None when there is none to compare with. Where that is no first run, it is said."""
    pointer = at_start.pointer
    if pointer is None:
        return None
    try:
        if pointer.release in store.releases():
            return open_release(store, pointer.release)
        say(f"  {pointer.release} is current but not in {store}: nothing is compared with it")
    except ArtefactError as error:
        say(f"  the release served now cannot be read, so nothing is compared with it: {error}")
    return None


@contextmanager
def publishing(address: Address, signer: Signer | None = None) -> Iterator[Publication]:
    """The one run that may build a release for this store on this machine, and a directory to build it in."""
    store = open_store(address)
    make_store(store.local)
    with only_publisher(store.local):
        mend_current(store)
        at_start = newest(store)
        with staging(store.local / RELEASES) as directory:
            try:
                yield Publication(store, at_start, directory, signer, open_served(store, at_start))
            except OSError as error:
                raise EnvironmentProblem(
                    f"cannot build a release in {store.local}: {error}. What is served has not changed; run this again once "
                    f"it can be written."
                ) from error


def same_content(store: Store, manifest: Manifest, signed_by: Verifier | None) -> str | None:
    """Id of a release in the store that differs in nothing but what its gates said."""
    for release in store.releases():
        raw, signature = (store.read(f"{RELEASES}/{release}/{name}") for name in (MANIFEST, SIGNATURE))
        try:
            known = parse_manifest(release, KIND, raw or b"", signature, signed_by)
        except ArtefactError:
            continue
        if known.files | {GATES: None} == manifest.files | {GATES: None}:
            return release
    return None


def holds(store: Store, release: str, signed_by: Verifier | None) -> bool:
    """Whether what the store holds of a release verifies, all of it read again."""
    try:
        verify(store, release, signed_by)
    except ArtefactError:
        return False
    return True
