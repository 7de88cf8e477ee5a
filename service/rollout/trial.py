"""The trial of a new release: the outcomes of its requests and of the current release's requests, and the verdict."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Literal

import numpy as np

from service.api.errors import ApiError
from service.rollout.plan import CANARY, CanaryPlan
from service.telemetry.metrics import Metrics

FEW_OVERLAPS = 20  # a mean over fewer comparisons says little
KEPT_LATENCIES = 10_000

Verdict = Literal["wait", "promote", "errors", "degraded", "latency", "overlap"]


@dataclass(slots=True)
class Outcomes:
    """Outcomes of the requests that one release answered: failures, latencies, and answers that lacked something."""

    num_failed: int = 0
    num_degraded: int = 0
    num_requests: int = 0
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_LATENCIES))

    def add(self, failed: bool, latency_s: float) -> None:
        """Add the outcome of one request."""
        self.num_failed += failed
        self.num_requests += 1
        self.latencies_s.append(latency_s)

    @property
    def error_rate(self) -> float:
        """Share of failed requests; 0 before the first request."""
        return self.num_failed / max(self.num_requests, 1)

    @property
    def degraded_rate(self) -> float:
        """Share of the requests whose answer lacked something, or had no item; 0 before the first request."""
        return self.num_degraded / max(self.num_requests, 1)

    @property
    def p99_s(self) -> float:
        """99th percentile of the latency of the last requests. There must be at least one."""
        return float(np.percentile(self.latencies_s, 99))


@dataclass(slots=True)
class Trial:
    """The trial of a new release, which answers a share of the requests until its time is over or a limit is broken."""

    release: str
    plan: CanaryPlan
    started_s: float
    is_candidate: bool = False  # whether the pointer only proposes it: once it has passed, it waits for the pointer to name it
    passed: bool = False
    new: Outcomes = field(default_factory=Outcomes)
    old: Outcomes = field(default_factory=Outcomes)
    overlaps: list[float] = field(default_factory=list)

    def verdict(self, now_s: float) -> Verdict:
        """What to do now: wait, promote the release, or reject it because of the limit that the verdict names.

        At the end, few requests are enough to judge errors, degraded answers and overlap, but not the 99th percentile of the
        latency. A release without any requests is promoted at the end.
        """
        over = now_s - self.started_s >= self.plan.seconds
        enough = self.new.num_requests >= self.plan.min_requests
        if (enough or over) and self.new.error_rate > self.old.error_rate + self.plan.max_error_rate:
            return "errors"
        if (enough or over) and self.new.degraded_rate > self.old.degraded_rate + self.plan.max_degraded_rate:
            return "degraded"
        timed = enough and self.old.num_requests >= self.plan.min_requests
        if timed and self.new.p99_s > self.plan.max_p99_ratio * self.old.p99_s:
            return "latency"
        compared = len(self.overlaps) >= FEW_OVERLAPS or (over and self.overlaps)
        if compared and np.mean(self.overlaps) < self.plan.min_overlap:
            return "overlap"
        return "promote" if over else "wait"

    def note_degraded(self, variant: str) -> None:
        """Count an answer of a variant that lacked something, or had no item."""
        (self.new if variant == CANARY else self.old).num_degraded += 1


@contextmanager
def watch(variant: str, trial: Trial | None, metrics: Metrics) -> Iterator[None]:
    """Surrounds the model work of one request: counts it, its time, and whether the release failed.

    Errors that the client caused are not failures of the release. The outcome also counts for `trial`, unless that is None.
    """
    started_s, failed = monotonic(), False
    try:
        yield
    except ApiError as error:
        failed = error.code == "deadline_exceeded"
        raise
    except Exception:
        failed = True
        raise
    finally:
        metrics.variant_requests.labels(variant, "failed" if failed else "answered").inc()
        if trial:
            (trial.new if variant == CANARY else trial.old).add(failed, monotonic() - started_s)
