"""Removes old releases from a store."""

from datetime import UTC, datetime, timedelta
from functools import partial

from twotower.artefacts.release import POINTERS, current_release, newest, pointers, rollbacks
from twotower.artefacts.store import Store

KEPT_POINTERS = 100


def collect(store: Store, keep: int, grace_minutes: float) -> tuple[int, int]:
    """Remove all releases but the newest `keep`. Returns how many were removed, and how many are left.

    The current release and the one a rollback goes to stay. So does every release written or current within the last
    `grace_minutes`, because a server may be loading it, or another run may be about to make it current.
    """
    since = datetime.now(UTC) - timedelta(minutes=grace_minutes)
    written = store.releases()
    kept = {*list(written)[-keep:], *(release for release, time_s in written.items() if time_s > since.timestamp())}
    current = newest(store).pointer
    if current is not None:
        kept |= {current.release, *[release for release in rollbacks(current) if release in written][:1]}
    for pointer in pointers(store):
        kept.add(pointer.release)
        if pointer.written_at <= since:
            break
    old = [release for release in written if release not in kept]
    removed = [release for release in old if store.retire(release, partial(_is_current, store, release))]
    store.sweep()
    for name in store.names(POINTERS)[:-KEPT_POINTERS]:
        store.delete(f"{POINTERS}/{name}")
    return len(removed), len(written) - len(removed)


def _is_current(store: Store, release: str) -> bool:
    return current_release(store) == release
