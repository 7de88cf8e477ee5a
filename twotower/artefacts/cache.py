"""Keeps verified copies of a bucket's releases on this machine."""

from pathlib import Path

from twotower.artefacts.manifest import Digest, sha256
from twotower.artefacts.release import Pointer, is_sound, newest, read_pointer, record, require, verify_release
from twotower.artefacts.retention import collect
from twotower.artefacts.signature import Verifier
from twotower.artefacts.store import GRACE_MINUTES, RELEASES, LocalStore, Store
from twotower.errors import StoreError


def fetch(store: Store, release: str, signed_by: Verifier | None = None, digest: Digest = sha256) -> Path:
    """Directory of a release on this machine. A release of a bucket is downloaded once, verified, and kept.

    StoreError, IntegrityError, FormatError or ReleaseMismatch when it cannot be had whole. That of a directory store is not read.
    """
    require(store, release)
    path = store.local / RELEASES / release
    if isinstance(store, LocalStore) or is_sound(path, signed_by, digest):
        return path
    with store.reread(release, signed_by) as directory:
        verify_release(directory, signed_by, digest)
        cache = LocalStore(store.local)
        with cache.exclusive():
            if not is_sound(path, signed_by):  # else another process was faster
                cache.add(directory, release)
    collect(cache, keep=2, grace_minutes=GRACE_MINUTES)
    return path


def local_copy(store: Store, signed_by: Verifier | None = None) -> Path:
    """A directory store with the current release and its pointer: the store itself, or the updated copy of a bucket.

    StoreError also when the pointer has a lower sequence number than one seen before, because somebody restored an older state.
    """
    if isinstance(store, LocalStore):
        return store.local
    keep(store, read_pointer(store), signed_by)
    return store.local


def keep(store: Store, pointer: Pointer, signed_by: Verifier | None = None) -> Path:
    """Directory of the release that a pointer names. The pointer of a bucket is kept on this machine too.

    See `fetch` and `local_copy` for what they raise.
    """
    if isinstance(store, LocalStore):
        return fetch(store, pointer.release)
    cache = LocalStore(store.local)
    if (seen := newest(cache).sequence) > pointer.sequence:
        raise StoreError(
            f"{store} is at pointer {pointer.sequence}, but was at {seen}: something older was put in its place. "
            f"If that is meant, delete {cache} and start again."
        )
    path = fetch(store, pointer.release, signed_by)
    with cache.exclusive():
        if newest(cache).sequence < pointer.sequence:
            record(cache, pointer)
    return path
