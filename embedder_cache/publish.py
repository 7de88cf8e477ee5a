"""Puts a sealed release into the store. One run publishes at a time, and the pointer moves after the release was read back."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from embedder_cache.catalogue.opened_release import OpenedRelease, open_release
from twotower.artefacts.manifest import MANIFEST, Digest, Manifest, parse_manifest, sha256, staging, sync
from twotower.artefacts.proofs import Proofs
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
    """Make the store's directories; EnvironmentProblem when that fails."""
    try:
        (store / "releases").mkdir(parents=True, exist_ok=True)
        sync(store)  # else a power cut could leave the first pointer without the directory of its release
    except OSError as error:
        raise EnvironmentProblem(f"cannot write to {store}: {error.strerror or error}. Choose another --store.") from error


@contextmanager
def only_publisher(store: Path) -> Iterator[None]:
    """Lock the store against other runs until this one ends, and remove the files that killed runs left there.

    StoreError while another run holds the lock.
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
    """One run of the nightly job, from the pointer it found to the pointer it writes."""

    store: Store
    at_start: PointerAtStart
    directory: Path  # where the release is built
    signer: Signer | None
    served: OpenedRelease | None  # the release that is served now, opened and hashed once for the whole run
    digest: Digest = sha256  # reads no file again that was read when `served` was opened

    def publish(self, manifest: Manifest, aside: bool = False) -> tuple[str, bool]:
        """Put the sealed directory into the store, read it back and make it current. Returns its id, and whether that changed.

        `aside`, the pointer stays where it is, and the second result is whether the release is another than the current one.

        The store may have this release already: nothing changed, a run was killed, or the catalogue went back. Then only the
        pointer moves. A release that is there but damaged, or signed otherwise, is replaced. gates.json does not count when
        releases are compared, because it describes the release served before, which is another one each night. StoreError
        when the pointer has moved since the run began.
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
            verify(self.store, release, signed_by, self.digest)
        pointer = self.at_start.pointer
        changed = pointer is None or (pointer.sequence, pointer.release) != (self.at_start.sequence, release)
        if aside:
            changed = pointer is None or pointer.release != release
        elif changed:
            write_pointer(self.store, release, "published by twotower embed", self.at_start)
        if known and known != release:
            self.store.retire(known, lambda: False)  # it is damaged
        return release, changed

    def _read_already(self, release: str) -> bool:
        """Whether this run has hashed the release in the store itself. Of a bucket it has hashed a copy on this machine."""
        manifest = self.served.manifest if self.served and isinstance(self.store, LocalStore) else None
        return manifest is not None and manifest.id == release


def open_served(store: Store, at_start: PointerAtStart, digest: Digest = sha256) -> OpenedRelease | None:
    """The release that is served now, or None when there is none to compare with, which is said unless this is the first run."""
    pointer = at_start.pointer
    if pointer is None:
        return None
    try:
        if pointer.release in store.releases():
            return open_release(store, pointer.release, digest)
        say(f"  {pointer.release} is current but not in {store}: nothing is compared with it")
    except ArtefactError as error:
        say(f"  the release served now cannot be read, so nothing is compared with it: {error}")
    return None


@contextmanager
def publishing(address: Address, signer: Signer | None = None, prove: bool = False) -> Iterator[Publication]:
    """Lock the store on this machine, open the release served now, and make a directory to build the new release in.

    With `prove`, files that the new release shares with the one served now are read again with it.
    """
    store = open_store(address)
    make_store(store.local)
    with only_publisher(store.local):
        mend_current(store)
        at_start = newest(store)
        with staging(store.local / RELEASES) as directory:
            try:
                proofs = Proofs()
                served = open_served(store, at_start, proofs.read)
                yield Publication(store, at_start, directory, signer, served, sha256 if prove else proofs.digest)
            except OSError as error:
                raise EnvironmentProblem(
                    f"cannot build a release in {store.local}: {error}. What is served has not changed; run this again once "
                    f"it can be written."
                ) from error


def same_content(store: Store, manifest: Manifest, signed_by: Verifier | None) -> str | None:
    """Id of a release in the store whose files are the same but for gates.json; None without one."""
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
    """Whether the release in the store is whole, by reading and hashing all of it again."""
    try:
        verify(store, release, signed_by)
    except ArtefactError:
        return False
    return True
