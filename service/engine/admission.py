"""Admission: which requests the engine accepts. A request takes its place once, and every refusal is counted here."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from service.api.errors import ApiError
from service.api.schemas import AboutUser
from service.engine.thread import Engine, Place
from service.ranking.user_request import UserRequest, cost_of, cost_unread, is_patient
from service.release.loaded import LoadedRelease
from service.states.memory import UserKey
from service.telemetry.metrics import Metrics

_BUSY_S = 0.01  # below this queue time, skip the early refusal


class Admission:
    """Gives out the places of one engine. Used on the event loop."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine, self._metrics = engine, metrics
        self._queued: Counter[UserKey | None] = Counter()  # number of requests that the engine has of each user

    @property
    def is_busy(self) -> bool:
        """Whether requests wait, so that a further one might be refused."""
        return self._engine.wait_s > _BUSY_S

    def refuse_early(self, release: LoadedRelease, request: AboutUser, deadline_s: float) -> None:
        """ApiError overloaded if `take` would raise it. No place is kept."""
        self.take(release, request, deadline_s).give_back()

    def take(self, release: LoadedRelease, request: AboutUser, deadline_s: float) -> Place:
        """A place for a request whose history is not yet read; ApiError overloaded when there is no room."""
        try:
            return self._take(request, cost_unread(release, request, self._queued), deadline_s)
        except ApiError as error:
            raise self._counted(error) from None

    def take_aside(self, release: LoadedRelease, user_request: UserRequest[AboutUser]) -> Place:
        """A place for a request that no client waits for; ApiError overloaded, which is not counted, when there is no room."""
        return self._take(user_request.request, cost_of(release, user_request, ()), math.inf)

    def take_alone(self, deadline_s: float) -> Place:
        """A place for rare work, which counts no cost; ApiError overloaded when there is no room."""
        try:
            return self._engine.take_place(0, deadline_s)
        except ApiError as error:
            raise self._counted(error) from None

    @contextmanager
    def queued(self, place: Place, release: LoadedRelease, user_request: UserRequest[AboutUser]) -> Iterator[None]:
        """Surrounds the time that the engine has a request.

        The place gets the cost that is known now. The user counts as being read, which makes further requests of theirs cheaper.
        """
        place.resize(cost_of(release, user_request, self._queued))
        key = user_request.key
        self._queued[key] += 1
        try:
            yield
        finally:
            self._queued[key] -= 1
            if not self._queued[key]:
                del self._queued[key]

    def _take(self, request: AboutUser, cost: int, deadline_s: float) -> Place:
        take = self._engine.take_patient_place if is_patient(request) else self._engine.take_place
        return take(cost, deadline_s)

    def _counted(self, error: ApiError) -> ApiError:
        if error.code == "overloaded":
            self._metrics.rejected.labels("queue_full").inc()
        return error
