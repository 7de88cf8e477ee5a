"""The releases that a plan of variants names."""

import asyncio
import logging

from service.release.loaded import LoadedRelease
from service.release.loading import open_release
from service.release.source import ReleaseSource
from service.rollout.plan import Plan
from twotower.artefacts.cache import fetch
from twotower.artefacts.retention import mark_named
from twotower.artefacts.store import Store
from twotower.errors import StoreError

MARK_EVERY_S = 6 * 3600.0
_log = logging.getLogger("twotower.rollout")


def pinned_releases(source: ReleaseSource, plan: Plan, served: LoadedRelease) -> dict[str, LoadedRelease]:
    """The releases that a plan of variants names, by id, without the served one.

    One that the store no longer has is left out with a warning: the current release answers in its place. Otherwise this raises
    the same errors as `load_release`.
    """
    found: dict[str, LoadedRelease] = {}
    for release in sorted(plan.pinned - {served.id}):
        try:
            path = fetch(source.store, release, source.signed_by)
        except StoreError as error:
            _log.warning("the plan of variants names %s, in whose place the current release answers: %s", release, error)
        else:
            found[release] = open_release(path, source.signed_by, source.device, source.pools)
    return found


async def keep_marked(store: Store, plan: Plan) -> None:
    """Mark the releases of the plan in the store again and again, so that `releases gc` leaves them; ends when cancelled.

    A server that may only read its store leaves no marks, and says so once. Then `releases gc --variants` must be given the plan.
    """
    is_said = False
    while plan.pinned:
        try:
            await asyncio.to_thread(mark_named, store, plan.pinned)
        except StoreError as error:
            if not is_said:
                _log.warning("releases of the plan cannot be marked, give it to `releases gc --variants`: %s", error)
            is_said = True
        await asyncio.sleep(MARK_EVERY_S)
