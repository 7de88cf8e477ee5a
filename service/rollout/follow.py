"""Follows the store's pointer: a new release is verified, loaded and warmed up beside the served one, and then takes over.

If anything goes wrong, the current release keeps answering. A release that must not be used is quarantined: it is not tried again
until the pointer moves. Problems that may pass, such as a store that does not answer or too little memory, lead to another try.
"""

import asyncio
import logging
import random
from contextlib import suppress
from time import monotonic
from typing import Literal

from service.api.errors import ApiError
from service.release.loaded import LoadedRelease
from service.rollout.canary import CanaryJudge
from service.rollout.loading import ReleaseLoader
from service.rollout.served import ServedReleases
from service.rollout.swap import Swapper
from service.telemetry.metrics import Metrics
from twotower.artefacts.release import Pointer
from twotower.errors import EnvironmentProblem, FormatError, IntegrityError, ReleaseMismatch, StoreError

Outcome = Literal["unchanged", "swapped", "trial", "refused", "unavailable"]

TICK_S = 1.0
MAX_DOUBLINGS = 5  # the pause between polls doubles with each failure in a row, at most so often
_log = logging.getLogger("twotower.rollout")


class Follower:
    """Keeps one server on the release that the store's pointer names."""

    def __init__(
        self,
        served: ServedReleases,
        loader: ReleaseLoader,
        swapper: Swapper,
        judge: CanaryJudge,
        metrics: Metrics,
        poll_s: float,
    ) -> None:
        self.sequence = 0  # sequence number of the last pointer that was handled
        self.named: str | None = None  # the release that the pointer named at the last look
        self.quarantined: dict[str, str] = {}  # release -> reason
        self._served, self._loader, self._swapper, self._judge = served, loader, swapper, judge
        self._metrics, self._poll_s = metrics, poll_s
        self._looking = asyncio.Lock()
        self._due_s = monotonic() + self._pause(0)
        self._task: asyncio.Task[None] | None = None

    @property
    def previous(self) -> LoadedRelease | None:
        """The release that was served before, as long as it is in memory."""
        return self._swapper.previous

    def start(self) -> None:
        """Start to look at the pointer regularly, on the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop. A release that is being loaded is abandoned."""
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._swapper.close()
        self._loader.close()

    def hurry(self) -> None:
        """Look at the pointer within a second."""
        self._due_s = 0

    async def look(self) -> Outcome:
        """Look at the pointer, and serve the release that it names if possible. A bad store or release never makes this raise."""
        async with self._looking:
            pointer = None
            try:
                pointer = await self._loader.pointer()
                self.named = pointer.release
                outcome = await self._follow(pointer)
            except Exception as error:  # even for a bug of ours, because the served release is not affected
                outcome = self._refuse(pointer, error)
            if pointer and outcome != "unavailable":
                self.sequence = pointer.sequence
            if outcome != "unchanged":
                self._metrics.swaps.labels(outcome).inc()
            return outcome

    async def decide_trial(self, now_s: float) -> None:
        """End the trial of a new release if it has shown enough. A release that fails is quarantined."""
        async with self._looking:
            if failed := await self._judge.decide_trial(now_s):
                self.quarantined[failed[0]] = failed[1]
            self.quarantined.pop(self._served.current.id, None)  # a promoted release may have failed an earlier trial

    async def _run(self) -> None:
        await self._swapper.show()
        failures = 0
        while True:
            await asyncio.sleep(TICK_S)
            try:
                await self.decide_trial(monotonic())
            except Exception as error:  # this task must not end: nothing would look at the pointer any more
                _log.warning("the trial could not be decided: %s: %s", type(error).__name__, error)
            if monotonic() >= self._due_s:
                failures = failures + 1 if await self.look() == "unavailable" else 0
                self._due_s = monotonic() + self._pause(failures)

    def _pause(self, failures: int) -> float:
        """Seconds until the next look. They vary at random, so that not all servers load a release at the same time."""
        jitter = random.uniform(0.75, 1.25)  # noqa: S311
        return self._poll_s * jitter * (1 << min(failures, MAX_DOUBLINGS))

    async def _follow(self, pointer: Pointer) -> Outcome:
        now = self._served.now
        if pointer.sequence == self.sequence:
            return "unchanged"
        if pointer.sequence < self.sequence:
            raise StoreError(f"{self._loader.source.store} is at pointer {pointer.sequence}, but was at {self.sequence}")
        if pointer.release == now.current.id:
            return await self._try_candidate(pointer)
        if now.trial and pointer.release == now.trial.release:
            now.trial.is_candidate = False  # it takes over as soon as it has passed, which may be at the next tick
            return "unchanged"
        release = self._swapper.in_memory(pointer.release) or await self._loader.load(pointer)
        self._served.end_trial()  # also when the swap fails: a release that was overtaken must not be promoted
        canary = self._served.plan.canary
        if canary is None or release.id in self._swapper.has_served:
            await self._swapper.swap(release)
            self.quarantined.pop(release.id, None)
            await self._try_candidate(pointer)
            return "swapped"
        await self._served.start_trial(release, canary, monotonic())
        _log.info("%s is on trial with %g %% of the requests", release.id, canary.percent)
        return "trial"

    async def _try_candidate(self, pointer: Pointer) -> Outcome:
        """Try the release that the pointer proposes beside the current one; without one, a trial ends."""
        candidate, now = pointer.candidate, self._served.now
        if candidate is None or candidate.release == now.current.id:
            self._served.end_trial()
            return "unchanged"
        if now.trial and now.trial.release == candidate.release:
            return "unchanged"
        self._served.end_trial()
        in_memory = self._swapper.in_memory(candidate.release)
        release = in_memory or await self._loader.load(pointer, candidate.release)
        await self._served.start_trial(release, self._served.plan.trial_of(candidate), monotonic(), is_candidate=True)
        self.quarantined.pop(release.id, None)
        _log.info("%s is proposed, and on trial with %g %% of the requests", release.id, candidate.percent)
        return "trial"

    def _refuse(self, pointer: Pointer | None, error: Exception) -> Outcome:
        reason, final = reason_of(error)
        self._metrics.load_failures.labels(reason).inc()
        named = self._wanted(pointer) if pointer else "the store's pointer"
        text = " ".join(str(error).split()) or type(error).__name__
        _log.warning("%s is not served (%s): %s; %s keeps answering", named, reason, text, self._served.current.id)
        if pointer and final:
            self.quarantined[named] = reason
            return "refused"
        return "unavailable"

    def _wanted(self, pointer: Pointer) -> str:
        """The release that a pointer asks this server to load: the one that it names, or else the one that it proposes."""
        is_served = pointer.release == self._served.current.id
        return pointer.candidate.release if is_served and pointer.candidate else pointer.release


def reason_of(error: Exception) -> tuple[str, bool]:
    """Why a release is not served, as a metric label, and whether the release is to be quarantined for it."""
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
