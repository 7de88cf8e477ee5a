"""Decides the trial of a canary: a new release is promoted, or rejected, once its trial has shown enough."""

import logging

from service.api.errors import ApiError
from service.rollout.loading import ReleaseLoader
from service.rollout.served import ServedReleases
from service.rollout.swap import Swapper
from service.telemetry.metrics import Metrics

_log = logging.getLogger("twotower.rollout")


class CanaryJudge:
    """Decides the trials of new releases on one server."""

    def __init__(self, served: ServedReleases, swapper: Swapper, loader: ReleaseLoader, metrics: Metrics) -> None:
        self._served, self._swapper, self._loader, self._metrics = served, swapper, loader, metrics

    async def decide_trial(self, now_s: float) -> tuple[str, str] | None:
        """End the trial if it has shown enough. Returns a release that failed, with the limit that it broke; otherwise None."""
        now = self._served.now
        trial, current = now.trial, now.current
        verdict = trial.verdict(now_s) if trial else "wait"
        if trial is None or verdict == "wait":
            return None
        if verdict == "promote" and trial.is_candidate:
            if not trial.passed:
                trial.passed = True
                self._metrics.swaps.labels("passed").inc()
                _log.info("%s passed its trial, and answers its share until the pointer names it", trial.release)
            return None
        if verdict == "promote":
            try:
                await self._swapper.swap(now.others[trial.release])
            except ApiError as error:  # the file of item changes could not be read; it is tried again at the next tick
                _log.warning("%s passed its trial but cannot be served yet: %s", trial.release, error)
            else:
                self._metrics.swaps.labels("promoted").inc()
            return None
        self._served.end_trial()
        self._loader.free_memory()
        self._metrics.swaps.labels("rolled_back").inc()
        _log.warning("%s failed its trial (limit of %s); %s keeps answering all requests", trial.release, verdict, current.id)
        return trial.release, verdict
