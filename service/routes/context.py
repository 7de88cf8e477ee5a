"""The parts of one server that its routes share."""

import time
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.engine.admission import Admission
from service.engine.calls import ModelCalls
from service.engine.thread import Engine
from service.histories.reading import HistoryReader
from service.http.messages import read_json, reply
from service.process.readiness import Readiness
from service.rollout.follow_ups import FollowUps
from service.rollout.served import ServedReleases
from service.rollout.shadow import Comparisons
from service.settings import Settings
from service.telemetry.deadlines import Deadlines
from service.telemetry.metrics import Metrics

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of one server. Their state changes, but a part is never replaced."""

    settings: Settings
    metrics: Metrics
    engine: Engine
    admission: Admission
    calls: ModelCalls
    deadlines: Deadlines
    histories: HistoryReader
    served: ServedReleases
    comparisons: Comparisons
    follow_ups: FollowUps
    readiness: Readiness

    async def body(self, request: Request, decoder: msgspec.json.Decoder[T], parts: str | None = None) -> T:
        """The decoded body of a request; ApiError that names what is wrong and in which field. `parts`: see `read_json`."""
        with self.metrics.stage("decode"):
            return await read_json(request, decoder, self.settings, parts)

    def encoded(self, response: msgspec.Struct) -> Response:
        """A JSON response; the time of encoding is measured as a stage of the request."""
        with self.metrics.stage("encode"):
            return reply(response)

    def count_answer(self, degraded: list[str], num_unknown: int, has_items: bool) -> None:
        """Count unknown items, empty answers and notes of `degraded`."""
        if num_unknown:
            self.metrics.unknown_items.inc(num_unknown)
        if not has_items:
            self.metrics.empty.inc()
        for reason in degraded:
            self.metrics.degraded.labels(reason).inc()


def now_ms() -> int:
    """The present time in epoch milliseconds."""
    return time.time_ns() // 1_000_000


def ms_since(started_s: float) -> float:
    """Milliseconds since `started_s`, a moment of time.monotonic."""
    return round((time.monotonic() - started_s) * 1000, 3)
