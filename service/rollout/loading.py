"""Prepares a release until it can answer: it is copied from the store, verified, loaded and warmed up, but not yet served."""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import time
from typing import TypeVar

import torch

from service.api.errors import ApiError
from service.api.schemas import Event, RecommendRequest
from service.engine.calls import ModelCalls
from service.engine.thread import Engine
from service.histories.history import UserHistory
from service.ranking.user_request import UserRequest
from service.release.loaded import LoadedRelease
from service.release.loading import read_release
from service.release.memory import give_back, needed_bytes
from service.release.source import ReleaseSource
from twotower.artefacts.cache import fetch, keep
from twotower.artefacts.manifest import Manifest
from twotower.artefacts.release import Pointer, ReleaseInfo, read_pointer, verify_release
from twotower.errors import IntegrityError
from twotower.memory import available_bytes

T = TypeVar("T")

WARM_LENGTHS = (0, 1, 8, 64, 256)  # events of made-up histories
_NICE = 19


class ReleaseLoader:
    """Loads releases of a store while another one is served. `available` returns the free memory in bytes, None if unknown."""

    def __init__(
        self,
        source: ReleaseSource,
        engine: Engine,
        calls: ModelCalls,
        num_copies: int,
        available: Callable[[], int | None] = available_bytes,
    ) -> None:
        self.source = source
        self._engine, self._calls, self._num_copies, self._available = engine, calls, num_copies, available
        # Verifying reads and hashes files without holding Python's global lock, so its thread can have a low priority. Loading
        # sometimes holds the lock, and if its thread had to wait for a processor meanwhile, all threads would wait with it.
        self._verifying = ThreadPoolExecutor(1, "verify", _yield_to_others)
        self._loading = ThreadPoolExecutor(1, "load", partial(torch.set_num_threads, 1))

    async def pointer(self) -> Pointer:
        """The store's pointer."""
        return await self._call(self._verifying, partial(read_pointer, self.source.store))

    async def built_at(self) -> dict[str, float]:
        """When each release of the store was written, as Unix time."""
        return await self._call(self._verifying, self.source.store.releases)

    async def load(self, pointer: Pointer, candidate: str | None = None) -> LoadedRelease:
        """The release that a pointer names, or the `candidate` that it proposes, ready to answer.

        `follow.reason_of` lists the errors that this can raise.
        """
        found = await self._call(self._verifying, partial(self._bring_near, pointer, candidate))
        release = await self._call(self._loading, partial(read_release, *found, self.source.device, self.source.pools))
        await self._engine.load(release)
        await warm(self._calls, release)
        return release

    def free_memory(self) -> None:
        """Return the memory of freed releases to the system, on another thread."""
        self._loading.submit(give_back)

    def close(self) -> None:
        """Stop. A release that is being loaded is abandoned."""
        for pool in (self._verifying, self._loading):
            pool.shutdown(wait=False, cancel_futures=True)

    def _bring_near(self, pointer: Pointer, candidate: str | None) -> tuple[Path, Manifest, ReleaseInfo]:
        """The local directory of a release, after it was verified and there is enough memory for it."""
        store, signed_by, release = self.source.store, self.source.signed_by, candidate or pointer.release
        path = fetch(store, candidate, signed_by) if candidate else keep(store, pointer, signed_by)
        manifest, info = verify_release(path, signed_by)
        if manifest.id != release:
            raise IntegrityError(f"{path} holds {manifest.id}: its files are not those that were published under this name")
        needed, available = self._num_copies * needed_bytes(manifest, info), self._available()
        if available is not None and needed > available:
            raise MemoryError(f"{release} needs about {needed:,} bytes beside the release served, {available:,} are free")
        return path, manifest, info

    @staticmethod
    async def _call(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)


async def warm(calls: ModelCalls, release: LoadedRelease) -> None:
    """Send made-up requests through the engine, each as soon as there is room. They also show the engine how fast it is."""
    now_ms = int(time() * 1000)
    for num_events in WARM_LENGTHS:
        events = [Event(event_type="warm", timestamp=now_ms, item_id=item_id) for item_id in release.item_ids[:num_events]]
        made_up = UserRequest(RecommendRequest(events=events), UserHistory(), now_ms)
        while True:
            try:
                await calls.recommend_aside(release, made_up)
                break
            except ApiError as error:
                if error.code != "overloaded":
                    raise
                await asyncio.sleep(0.1)


def _yield_to_others() -> None:
    """Give this thread the lowest priority, on systems where threads have priorities of their own."""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
