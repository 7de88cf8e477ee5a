"""What one request did, and when: its log line and its trace are made of it."""

import re
from contextvars import ContextVar
from dataclasses import dataclass, field

_TRACEPARENT = re.compile("[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(slots=True)
class Trail:
    """Notes of one request; times are of time.perf_counter."""

    request_id: str
    started_s: float
    traceparent: str = ""  # W3C Trace Context, as the caller sent it
    method: str = "other"
    route: str = "other"
    status: int = 0  # none is sent yet
    ended_s: float = 0.0
    key_id: str | None = None
    user_id: str | None = None
    release: str | None = None
    stages: list[tuple[str, float, float]] = field(default_factory=list)  # name, start, end
    is_shed: bool = False  # refused for want of capacity: there may be thousands a second

    @property
    def has_failed(self) -> bool:
        """Whether something is wrong with the server, and not only with its size."""
        return self.status >= 500 and not self.is_shed

    @property
    def duration_s(self) -> float:
        """From the head of the request to the end of its answer."""
        return self.ended_s - self.started_s

    @property
    def trace_id(self) -> str | None:
        """The trace that the caller says the request belongs to."""
        found = _TRACEPARENT.fullmatch(self.traceparent)
        return found[1] if found else None


# Every request is a task with a context of its own, so that a stage need not be told whose it is.
TRAIL: ContextVar[Trail | None] = ContextVar("trail", default=None)
