"""Follows the store's pointer: a new release is verified, loaded and warmed aside, and takes over by one assignment.

Whatever goes wrong, the release before goes on answering. One that must not be used is quarantined: it is not looked at again
until the pointer moves. What may be better the next time, a store without answer or too little memory, is tried again.
"""

import asyncio
import math
import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import Literal, TypeVar

import torch

from service.api.errors import ApiError
from service.api.schemas import Event, RecommendRequest
from service.histories.history import UserHistory
from service.ranking.recommend import Asked
from service.release.loaded import LoadedRelease
from service.release.loading import read_release
from service.release.memory import give_back, needed_bytes
from service.release.source import Source
from service.rollout.variants import Trial
from service.routes.context import Service
from twotower.artefacts.cache import keep
from twotower.artefacts.manifest import Manifest
from twotower.artefacts.release import Pointer, ReleaseInfo, read_pointer, verify_release
from twotower.errors import EnvironmentProblem, FormatError, IntegrityError, ReleaseMismatch, StoreError
from twotower.memory import available_bytes
from twotower.progress import say

T = TypeVar("T")
Outcome = Literal["unchanged", "swapped", "trial", "refused", "unavailable"]

TICK_S = 1.0
MAX_DOUBLINGS = 5  # of the pause between polls, one for each failure in a row
WARM_LENGTHS = (0, 1, 8, 64, 256)  # events of made-up histories
_NICE = 19


class Follower:
    """Keeps one server at the store's pointer. `available` says how much memory is left, None for unknown."""

    def __init__(self, service: Service, source: Source, available: Callable[[], int | None] = available_bytes) -> None:
        self.sequence = 0  # of the last pointer that was dealt with
        self.kept: LoadedRelease | None = None  # the release before, for an instant rollback
        self.quarantined: dict[str, str] = {}  # release -> why
        self._service, self._source, self._available = service, source, available
        self._served = {service.release.id}  # ever, by this process: they need no trial
        self._looking = asyncio.Lock()
        self._due_s = monotonic() + self._pause(0)
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        # Verifying is reading and hashing, in which Python is free for others: it may wait for whoever wants a processor.
        # Loading holds Python now and then, and whoever is made to wait while holding it makes everyone wait.
        self._verifying = ThreadPoolExecutor(1, "verify", _last_in_line)
        self._loading = ThreadPoolExecutor(1, "load", partial(torch.set_num_threads, 1))

    def start(self) -> None:
        """Look at the pointer now and then, from the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop; what is being loaded is let go."""
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._timer:
            self._timer.cancel()
        for pool in (self._verifying, self._loading):
            pool.shutdown(wait=False, cancel_futures=True)

    def hurry(self) -> None:
        """Look at the pointer within a second."""
        self._due_s = 0

    async def look(self) -> Outcome:
        """Serve what the pointer names now, if that can be. Nothing that a store or a release holds makes it raise."""
        async with self._looking:
            pointer = None
            try:
                pointer = await self._call(self._verifying, partial(read_pointer, self._source.store))
                outcome = await self._follow(pointer)
            except Exception as error:  # also a bug of ours: the release that we serve is none the worse for it
                outcome = self._refuse(pointer, error)
            if pointer and outcome != "unavailable":
                self.sequence = pointer.sequence
            if outcome != "unchanged":
                self._service.metrics.swaps.labels(outcome).inc()
            return outcome

    async def judge(self, now_s: float) -> None:
        """End the trial of a new release when it has shown enough."""
        async with self._looking:
            service, trial = self._service, self._service.variants.trial
            verdict = trial.verdict(now_s) if trial else "wait"
            if trial is None or verdict == "wait":
                return
            if verdict == "promote":
                try:
                    await self._serve(service.others[trial.release])
                except ApiError as error:  # the file of item changes; at the next tick it may answer
                    say(f"{trial.release} passed its trial but cannot be served yet: {error}")
                    return
                service.metrics.swaps.labels("promoted").inc()
            else:
                self._end_trial()
                self.quarantined[trial.release] = verdict
                self._loading.submit(give_back)
                service.metrics.swaps.labels("rolled_back").inc()
                say(f"WARNING: {trial.release} broke the limit of {verdict} on trial; {service.release.id} goes on for all")

    async def _run(self) -> None:
        await self._show()
        failures = 0
        while True:
            await asyncio.sleep(TICK_S)
            try:
                await self.judge(monotonic())
            except Exception as error:  # the next look may go well, and nobody else would notice that there is none
                say(f"WARNING: the trial could not be judged: {type(error).__name__}: {error}")
            if monotonic() >= self._due_s:
                failures = failures + 1 if await self.look() == "unavailable" else 0
                self._due_s = monotonic() + self._pause(failures)

    def _pause(self, failures: int) -> float:
        """Until the next look; not the same for all servers, which would all load at once."""
        jitter = random.uniform(0.75, 1.25)  # noqa: S311
        return self._service.settings.poll_s * jitter * (1 << min(failures, MAX_DOUBLINGS))

    async def _follow(self, pointer: Pointer) -> Outcome:
        service = self._service
        if pointer.sequence == self.sequence:
            return "unchanged"
        if pointer.sequence < self.sequence:
            raise StoreError(f"{self._source.store} is at pointer {pointer.sequence}, but was at {self.sequence}")
        if pointer.release == service.release.id:
            self._end_trial()
            return "unchanged"
        if service.variants.trial and pointer.release == service.variants.trial.release:
            return "unchanged"
        release = self._known(pointer.release) or await self._load(pointer)
        self._end_trial()
        canary = service.variants.plan.canary
        if canary is None or release.id in self._served:
            await self._serve(release)
            return "swapped"
        async with self._still():
            service.others |= {release.id: await service.with_changes(release)}
        service.variants.trial = Trial(release.id, canary, monotonic())
        say(f"{release.id} is on trial with {canary.percent:g} % of the requests")
        return "trial"

    async def _show(self) -> None:
        """Tell the metrics which release is served."""
        show(self._service)
        with suppress(StoreError, OSError):
            known = await self._call(self._verifying, self._source.store.releases)
            self._service.metrics.release_built.set(known.get(self._service.release.id, 0))

    def _known(self, release: str) -> LoadedRelease | None:
        """A release that is in memory already."""
        return self.kept if self.kept and self.kept.id == release else self._service.others.get(release)

    async def _load(self, pointer: Pointer) -> LoadedRelease:
        found = await self._call(self._verifying, partial(self._bring_near, pointer))
        release = await self._call(self._loading, partial(read_release, *found, self._source.device))
        await self._service.engine.load(release)
        for length in WARM_LENGTHS:
            await self._warm(release, length)
        return release

    def _bring_near(self, pointer: Pointer) -> tuple[Path, Manifest, ReleaseInfo]:
        """Directory of a release that verifies and that there is memory for."""
        path = keep(self._source.store, pointer, self._source.signed_by)
        manifest, info = verify_release(path, self._source.signed_by)
        if manifest.id != pointer.release:
            raise IntegrityError(f"{path} holds {manifest.id}: its files are not those that were published under this name")
        num_copies = 2 if self._service.settings.engine == "process" else 1
        needed, available = num_copies * needed_bytes(manifest, info), self._available()
        if available is not None and needed > available:
            raise MemoryError(f"{pointer.release} needs about {needed:,} bytes beside the release served, {available:,} are left")
        return path, manifest, info

    async def _warm(self, release: LoadedRelease, num_events: int) -> None:
        """One made-up request by the way of all requests, when there is room for it."""
        now_ms = int(time() * 1000)
        events = [Event(event_type="warm", timestamp=now_ms, item_id=item_id) for item_id in release.item_ids[:num_events]]
        while True:
            try:
                await self._service.rank(release, Asked(RecommendRequest(events=events), UserHistory(), now_ms), math.inf)
                return
            except ApiError as error:
                if error.code != "overloaded":
                    raise
                await asyncio.sleep(0.1)

    async def _serve(self, release: LoadedRelease) -> None:
        """Answer from it from the next request on, and keep the one before."""
        service = self._service
        async with self._still():
            served = service.others.get(release.id) or await service.with_changes(release)
            if service.changes:
                await service.changes.settle(served)
            # From here to the end nothing waits: no request and no change sees one half of it.
            service.others = {name: other for name, other in service.others.items() if name != served.id}
            before, service.release = service.release, served
            self._end_trial()
            if before.id in service.variants.plan.pinned:
                service.others[before.id] = before
        self._served.add(served.id)
        self.quarantined.pop(served.id, None)
        await self._keep(before.base)
        await self._show()
        say(f"serving {served.id} ({len(served):,} items) from now on; {before.id} is kept for {service.settings.keep_old_s:g} s")

    def _end_trial(self) -> None:
        service, trial = self._service, self._service.variants.trial
        service.variants.trial = None
        if trial and trial.release not in service.variants.plan.pinned:
            service.others = {name: other for name, other in service.others.items() if name != trial.release}

    async def _keep(self, release: LoadedRelease) -> None:
        if self._timer:
            self._timer.cancel()
        self.kept = replace(release)  # without what was kept of users
        await self._service.engine.load(self.kept)
        self._timer = asyncio.get_running_loop().call_later(self._service.settings.keep_old_s, self._drop)

    def _drop(self) -> None:
        self.kept = None
        self._loading.submit(give_back)

    def _still(self) -> AbstractAsyncContextManager[object]:
        """No item changes meanwhile."""
        return self._service.changes.one_at_a_time if self._service.changes else nullcontext()

    def _refuse(self, pointer: Pointer | None, error: Exception) -> Outcome:
        reason, final = reason_of(error)
        self._service.metrics.load_failures.labels(reason).inc()
        named = pointer.release if pointer else "the store's pointer"
        text = " ".join(str(error).split()) or type(error).__name__
        say(f"WARNING: {named} is not served ({reason}): {text}; {self._service.release.id} goes on")
        if pointer and final:
            self.quarantined[pointer.release] = reason
            return "refused"
        return "unavailable"

    async def _call(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)


def reason_of(error: Exception) -> tuple[str, bool]:
    """Why a release is not served, as a label, and whether it will not be until the pointer moves."""
    match error:
        case IntegrityError():
            return "integrity", True
        case FormatError():
            return "format", True
        case ReleaseMismatch():
            return "mismatch", True
        case EnvironmentProblem():
            return "environment", False
        case MemoryError():
            return "memory", False
        case StoreError() | OSError():
            return "store", False
        case ApiError():
            return error.code, False
        case _:
            return "internal", True


def show(service: Service) -> None:
    """Tell the metrics which release is served."""
    release, metrics = service.release, service.metrics
    metrics.release.clear()
    metrics.release.labels(release.id, release.info.vector_space_id).set(1)
    metrics.release_loaded.set(time())


def _last_in_line() -> None:
    """Let every other thread go first, where threads have priorities of their own."""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
