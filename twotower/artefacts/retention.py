"""Removes old releases from a store, but none that somebody still names.

Servers leave a marker for each release that their plan of variants names: STORE/named/<id>, which holds the time in seconds since
1970. They renew it, and one that nobody has renewed for a week no longer counts.
"""

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial

from twotower.artefacts.release import POINTERS, newest, pointers, rollbacks
from twotower.artefacts.store import Store

KEPT_POINTERS = 100
NAMED = "named"
NAMED_FOR_S = 7 * 86_400


def mark_named(store: Store, releases: Iterable[str]) -> None:
    """Note that a server names these releases, so that `collect` leaves them; StoreError if the store cannot be written to."""
    for release in releases:
        store.replace(f"{NAMED}/{release}", str(int(time.time())).encode())


def named(store: Store) -> set[str]:
    """The releases that servers have named within the last week. Older marks are removed."""
    found = set()
    for release in store.names(NAMED):
        written = store.read(f"{NAMED}/{release}") or b""
        if written.isdigit() and int(written) > time.time() - NAMED_FOR_S:
            found.add(release)
        else:
            store.delete(f"{NAMED}/{release}")
    return found


def collect(store: Store, keep: int, grace_minutes: float, also: Iterable[str] = ()) -> tuple[int, int]:
    """Remove all releases but the newest `keep`. Returns how many were removed, and how many are left.

    The current release, the one on trial and the one a rollback goes to stay. So does every release written or current within
    the last `grace_minutes`, because a server may be loading it, or another run may be about to make it current. The releases in
    `also` and those that servers name stay too.
    """
    since = datetime.now(UTC) - timedelta(minutes=grace_minutes)
    written = store.releases()
    kept = {*list(written)[-keep:], *(release for release, time_s in written.items() if time_s > since.timestamp())}
    kept |= {*also, *named(store)}
    current = newest(store).pointer
    if current is not None:
        kept |= {*_in_use(store), *[release for release in rollbacks(current) if release in written][:1]}
    for pointer in pointers(store):
        kept.add(pointer.release)
        if pointer.written_at <= since:
            break
    old = [release for release in written if release not in kept]
    removed = [release for release in old if store.retire(release, partial(_is_in_use, store, release))]
    store.sweep()
    for name in store.names(POINTERS)[:-KEPT_POINTERS]:
        store.delete(f"{POINTERS}/{name}")
    return len(removed), len(written) - len(removed)


def _is_in_use(store: Store, release: str) -> bool:
    return release in _in_use(store)


def _in_use(store: Store) -> set[str]:
    """The current release, and the one that is tried beside it."""
    pointer = newest(store).pointer
    if pointer is None:
        return set()
    return {pointer.release, pointer.candidate.release} if pointer.candidate else {pointer.release}
