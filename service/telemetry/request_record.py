"""The record of one request: what was done for it, and when. Its log line and its trace are made from it."""

import re
from contextvars import ContextVar
from dataclasses import dataclass, field

_TRACEPARENT = re.compile("[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(slots=True)
class RequestRecord:
    """Facts about one request; moments are in seconds of time.perf_counter."""

    request_id: str
    started_s: float
    traceparent: str = ""  # W3C Trace Context, as the caller sent it
    method: str = "other"
    route: str = "other"
    status: int = 0  # 0: no answer was sent yet
    ended_s: float = 0.0
    key_id: str | None = None
    user_id: str | None = None
    release: str | None = None
    stages: list[tuple[str, float, float]] = field(default_factory=list)  # name, start, end
    is_shed: bool = False  # refused because of overload; there may be thousands of these a second

    @property
    def has_failed(self) -> bool:
        """Whether the server failed. A refusal because of overload does not count."""
        return self.status >= 500 and not self.is_shed

    @property
    def duration_s(self) -> float:
        """Seconds from the arrival of the request's head to the end of its answer."""
        return self.ended_s - self.started_s

    @property
    def trace_id(self) -> str | None:
        """The trace id from the caller's `traceparent` header; None if there is none."""
        found = _TRACEPARENT.fullmatch(self.traceparent)
        return found[1] if found else None


# The record of the request that is being served. Each request is a task with a context of its own, so its stages find it here.
RECORD: ContextVar[RequestRecord | None] = ContextVar("record", default=None)
