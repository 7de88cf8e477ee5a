"""Deadlines of requests: when a request must be answered, and cancelling a call that takes longer."""

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from service.api.errors import ApiError
from service.telemetry.metrics import Metrics

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Computes and enforces the deadlines of requests. All moments are in seconds of time.monotonic."""

    metrics: Metrics
    request_timeout_s: float  # for a request without a timeout_ms of its own

    def of(self, started_s: float, timeout_ms: int | None = None) -> float:
        """The deadline of a request that arrived at `started_s`."""
        return started_s + (timeout_ms / 1000 if timeout_ms else self.request_timeout_s)

    def from_now(self) -> float:
        """The deadline of a request that arrives now and has no timeout_ms."""
        return self.of(time.monotonic())

    async def within(self, stage: str, call: Awaitable[T], deadline_s: float) -> T:
        """The result of `call`, timed as a stage of the request; ApiError deadline_exceeded when the deadline passes first."""
        with self.metrics.stage(stage):
            try:
                async with asyncio.timeout(max(deadline_s - time.monotonic(), 0)):
                    return await call
            except TimeoutError:
                self.metrics.late.labels(stage).inc()
                raise ApiError("deadline_exceeded", f"the request's deadline passed during this stage: {stage}") from None
