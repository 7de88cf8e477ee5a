"""Calls of the model from the event loop: one function for each kind of call, which the engine does in batches."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from service.api.schemas import AboutUser, RecommendRequest, SimilarRequest
from service.api.scores import ScoreRequest
from service.engine.admission import Admission
from service.engine.thread import Batched, Engine, Place
from service.ranking.recommend import recommend_many
from service.ranking.rules import Ranking
from service.ranking.score import Scores, score_many
from service.ranking.similar import SimilarItems, similar_many
from service.ranking.user_request import UserRequest
from service.release.loaded import LoadedRelease, hand_over_users
from service.states.cache import UserCache, forget_users
from service.states.memory import UserKey
from service.telemetry.deadlines import Deadlines

T = TypeVar("T")
Work = Callable[[LoadedRelease, Sequence[Any]], Sequence[Any]]


class ModelCalls:
    """Calls one engine. Most calls need the place that was given to their request, and end at the place's deadline."""

    def __init__(self, engine: Engine, admission: Admission, deadlines: Deadlines, cache: UserCache) -> None:
        self._engine, self._admission, self._deadlines = engine, admission, deadlines
        # Made only once, because the engine batches calls that have the same function object.
        self._recommend: Work = partial(recommend_many, cache=cache)
        self._score: Work = partial(score_many, cache=cache)
        self._similar: Work = partial(similar_many, cache=cache)
        self._forget = partial(forget_users, cache=cache)
        self._hand_over = partial(hand_over_users, cache)

    async def recommend(self, release: LoadedRelease, user: UserRequest[RecommendRequest], place: Place) -> Ranking:
        """The ranking for a request; ApiError when the request cannot be answered."""
        return await self._ask(self._recommend, release, user, place)  # type: ignore[no-any-return]

    async def score(self, release: LoadedRelease, user: UserRequest[ScoreRequest], place: Place) -> Scores:
        """Log-probabilities of the candidates of a request."""
        return await self._ask(self._score, release, user, place)  # type: ignore[no-any-return]

    async def similar(self, release: LoadedRelease, user: UserRequest[SimilarRequest], place: Place) -> SimilarItems:
        """Items similar to the one of a request; ApiError when the request cannot be answered."""
        return await self._ask(self._similar, release, user, place)  # type: ignore[no-any-return]

    async def recommend_aside(self, release: LoadedRelease, user: UserRequest[RecommendRequest]) -> Ranking:
        """A ranking that no client waits for, such as for a comparison.

        ApiError overloaded when there is no room; this is not counted as a refused request.
        """
        with self._admission.take_aside(release, user) as place, self._admission.queued(place, release, user):
            return await self._engine.submit_to(Batched(self._recommend, release), user, place)  # type: ignore[no-any-return]

    async def forget(self, release: LoadedRelease, key: UserKey) -> None:
        """Drop the cached state of a user."""
        deadline_s = self._deadlines.from_now()
        with self._admission.take_alone(deadline_s) as place:
            call = self._engine.submit_to(Batched(self._forget, release.users), key, place)
            await self._deadlines.within("engine", call, deadline_s)

    def hand_over(self, heir: LoadedRelease, before: LoadedRelease) -> None:
        """Let a release take over the user states of another one, which answers no more, if both have the same towers."""
        self._engine.hand_over(heir, before, self._hand_over)

    async def alone(self, work: Callable[[], T], deadline_s: float) -> T:
        """The result of `work`, run on the engine's thread on its own. Meant for rare work."""
        with self._admission.take_alone(deadline_s) as place:
            return await self._deadlines.within("engine", self._engine.submit(work, place), deadline_s)

    async def _ask(self, work: Work, release: LoadedRelease, user: UserRequest[AboutUser], place: Place) -> Any:
        with self._admission.queued(place, release, user):
            # A softmax over the catalogue takes longer than its cost says: it must not make recommendations look slow.
            batched = Batched(work, release, sets_pace=work is self._recommend)
            return await self._deadlines.within("engine", self._engine.submit_to(batched, user, place), place.deadline_s)
