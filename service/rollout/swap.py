"""Swaps the current release for another one, and keeps the previous one in memory for an instant rollback."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from time import time

from service.engine.thread import Engine
from service.release.loaded import LoadedRelease
from service.rollout.loading import ReleaseLoader
from service.rollout.served import ServedReleases
from service.telemetry.metrics import Metrics
from twotower.errors import StoreError

_log = logging.getLogger("twotower.rollout")


class Swapper:
    """Swaps the current release of one server, and keeps the previous one in memory for `keep_old_s`."""

    def __init__(
        self, served: ServedReleases, engine: Engine, loader: ReleaseLoader, metrics: Metrics, keep_old_s: float
    ) -> None:
        self.previous: LoadedRelease | None = None
        self.has_served = {served.current.id}  # releases that were current in this process: they need no trial
        self._served, self._engine, self._loader, self._metrics, self._keep_old_s = served, engine, loader, metrics, keep_old_s
        self._timer: asyncio.TimerHandle | None = None

    async def swap(self, release: LoadedRelease) -> None:
        """Make a release the current one from the next request on; ApiError, and no swap, if its item changes cannot be read."""
        before = await self._served.swap(release)
        current = self._served.current
        self.has_served.add(current.id)
        await self._keep(before.base)
        await self.show()
        num_items, kept_s = f"{len(current):,}", f"{self._keep_old_s:g}"
        _log.info("serving %s (%s items) from now on; %s is kept for %s s", current.id, num_items, before.id, kept_s)

    def in_memory(self, release: str) -> LoadedRelease | None:
        """The release with this id, if it is already in memory; otherwise None."""
        return self.previous if self.previous and self.previous.id == release else self._served.now.others.get(release)

    async def show(self) -> None:
        """Set the metrics about the current release, including when it was built."""
        show(self._served.current, self._metrics)
        with suppress(StoreError, OSError):
            self._metrics.release_built.set((await self._loader.built_at()).get(self._served.current.id, 0))

    def close(self) -> None:
        """Cancel the timer that frees the previous release."""
        if self._timer:
            self._timer.cancel()

    async def _keep(self, release: LoadedRelease) -> None:
        self.close()
        self.previous = replace(release)  # a copy without cached user states
        await self._engine.load(self.previous)
        self._timer = asyncio.get_running_loop().call_later(self._keep_old_s, self._forget)

    def _forget(self) -> None:
        self.previous = None
        self._loader.free_memory()


def show(release: LoadedRelease, metrics: Metrics) -> None:
    """Set the metrics about the current release."""
    metrics.release.clear()
    metrics.release.labels(release.id, release.info.vector_space_id).set(1)
    metrics.release_loaded.set(time())
