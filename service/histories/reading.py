"""Calls of the history store for requests: each call ends at the request's deadline, and failures are counted."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from service.api.errors import ApiError
from service.api.schemas import AboutUser
from service.histories.history import HistoryStore, HistoryUnavailable, UserHistory
from service.histories.remembered import RememberedHistories
from service.telemetry.deadlines import Deadlines
from service.telemetry.metrics import Metrics

T = TypeVar("T")

FoundHistory: TypeAlias = tuple[UserHistory | None, list[str]]
"""A stored history, or None where none was read, and notes for `degraded`."""

HISTORY_UNAVAILABLE = "history_unavailable"


@dataclass(frozen=True, slots=True)
class HistoryReader:
    """The history store as the routes use it, with deadlines and metrics."""

    store: HistoryStore
    metrics: Metrics
    deadlines: Deadlines

    async def read(self, request: AboutUser, deadline_s: float) -> FoundHistory:
        """The stored history of the request's user, and notes for `degraded`.

        The history is None when the request names no user, replaces the history, or the store cannot answer. In the last case,
        a `strict` request gets ApiError history_unavailable instead.
        """
        if request.user_id is None or request.history_mode == "replace":
            return None, []
        if isinstance(self.store, RememberedHistories) and (found := self.store.known_now(request.user_id)) is not None:
            with self.metrics.stage("history"):
                return found, []
        if request.strict:
            return await self.confirmed("read", self.store.read(request.user_id), deadline_s), []
        try:
            return await self.deadlines.within("history", self.store.read(request.user_id), deadline_s), []
        except HistoryUnavailable as error:
            self.metrics.history_errors.labels("read", error.reason).inc()
            return None, [HISTORY_UNAVAILABLE]

    async def confirmed(self, op: str, call: Awaitable[T], deadline_s: float | None = None) -> T:
        """The result of a store call that the request cannot do without; ApiError history_unavailable when it fails."""
        try:
            return await self.deadlines.within("history", call, deadline_s or self.deadlines.from_now())
        except HistoryUnavailable as error:
            self.metrics.history_errors.labels(op, error.reason).inc()
            message = f"the history store did not answer ({error.reason}); send the request again, with the same event_ids"
            raise ApiError("history_unavailable", message) from error
