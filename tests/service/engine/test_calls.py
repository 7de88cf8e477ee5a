"""What the event loop asks of the model, through an engine with the tiny shop's release."""

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from prometheus_client import CollectorRegistry

from service.api.errors import ApiError
from service.api.schemas import RecommendRequest, SimilarRequest
from service.api.scores import ScoreRequest
from service.engine.admission import Admission
from service.engine.calls import ModelCalls
from service.engine.thread import MAX_PATIENT, Engine, Limits, Place
from service.histories.history import UserHistory
from service.ranking.score import score_many
from service.ranking.similar import similar_many
from service.ranking.user_request import UserRequest
from service.release.loaded import LoadedRelease
from service.states.cache import UserCache
from service.telemetry.deadlines import Deadlines
from service.telemetry.metrics import Metrics
from tests.service.conftest import NOW_MS, recommend

T = TypeVar("T")
NOBODY = UserHistory()


class Model:
    """A running engine, and the calls that a server makes of it."""

    def __init__(self, release: LoadedRelease) -> None:
        self.metrics, self.engine, self.cache = Metrics(CollectorRegistry()), Engine(1, Limits(max_queued=8)), UserCache(1 << 26)
        self.admission = Admission(self.engine, self.metrics)
        self.calls = ModelCalls(self.engine, self.admission, Deadlines(self.metrics, 10.0), self.cache)
        self.release = replace(release)  # with no state of anybody
        self.batches: list[int] = []
        self.engine.on_batch = lambda requests, _: self.batches.append(requests)
        self.engine.start()

    def place(self, request: Any, timeout_s: float = 10.0) -> Place:
        return self.admission.take(self.release, request, time.monotonic() + timeout_s)

    def count(self, metric: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(metric, labels) or 0.0

    async def block(self) -> "tuple[threading.Event, asyncio.Task[bool]]":
        """Keep the engine busy until the event is set."""
        running, gate = threading.Event(), threading.Event()

        def stand() -> bool:
            running.set()
            return gate.wait()

        task = asyncio.create_task(self.calls.alone(stand, math.inf))
        await asyncio.to_thread(running.wait)
        return gate, task


@pytest.fixture
def model(release: LoadedRelease) -> Iterator[Model]:
    model = Model(release)
    yield model
    model.engine.close()


@pytest.fixture
def ann(histories: dict[str, UserHistory]) -> UserHistory:
    return max(histories.values(), key=lambda history: len(history.window))


def run(call: Awaitable[T]) -> T:
    async def wait() -> T:
        async with asyncio.timeout(20):
            return await call

    return asyncio.run(wait())


def of(request: Any, stored: UserHistory = NOBODY) -> UserRequest[Any]:
    return UserRequest(request, stored, NOW_MS)


def test_recommendations_are_those_of_the_release(model: Model, ann: UserHistory) -> None:
    request = RecommendRequest(user_id="ann", num_results=20)
    answer = run(model.calls.recommend(model.release, of(request, ann), model.place(request)))
    assert answer == recommend(replace(model.release), request, ann, NOW_MS)
    assert ("user", "ann") in model.release.users


def test_scores_are_those_of_the_release(model: Model, ann: UserHistory) -> None:
    request = ScoreRequest(user_id="ann", candidate_item_ids=[*list(ann.items)[:2], "item-3", "no such item"])
    scores = run(model.calls.score(model.release, of(request, ann), model.place(request)))
    (expected,) = score_many(replace(model.release), [of(request, ann)], UserCache(0))
    assert scores == expected
    assert scores.missing_item_ids == ["no such item"]


def test_similar_items_are_those_of_the_release(model: Model, ann: UserHistory) -> None:
    for request in (SimilarRequest(item_id="item-3"), SimilarRequest(user_id="ann", item_id="item-3", filter="price < 5")):
        found = run(model.calls.similar(model.release, of(request, ann), model.place(request)))
        assert found == similar_many(replace(model.release), [of(request, ann)], UserCache(0))[0]
        assert len(found.items) == 10


def test_an_error_is_its_callers_alone(model: Model) -> None:
    bad, good = (SimilarRequest(item_id=item_id) for item_id in ("no such item", "item-3"))

    async def ask() -> list[Any]:
        gate, blocker = await model.block()
        calls = [model.calls.similar(model.release, of(request), model.place(request)) for request in (bad, good)]
        asked = asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(0.01)
        gate.set()
        await blocker
        return await asked

    refused, found = run(ask())
    assert isinstance(refused, ApiError)
    assert (refused.code, refused.field) == ("not_found", "item_id")
    assert len(found.items) == 10
    assert model.batches == [2]


def test_all_calls_read_on_from_the_same_state(model: Model, ann: UserHistory) -> None:
    requests = [
        RecommendRequest(user_id="ann"),
        ScoreRequest(user_id="ann", candidate_item_ids=["item-3"]),
        SimilarRequest(user_id="ann", item_id="item-3"),
    ]
    calls: Sequence[Callable[..., Awaitable[Any]]] = [model.calls.recommend, model.calls.score, model.calls.similar]

    async def ask() -> None:
        for call, request in zip(calls, requests, strict=True):
            await call(model.release, of(request, ann), model.place(request))

    run(ask())
    assert (model.cache.counters.misses, model.cache.counters.hits) == (1, 2)


def test_a_user_that_is_forgotten_is_read_anew(model: Model, ann: UserHistory) -> None:
    request = RecommendRequest(user_id="ann")

    async def ask() -> None:
        for _ in range(2):
            await model.calls.recommend(model.release, of(request, ann), model.place(request))
            await model.calls.forget(model.release, ("user", "ann"))
            assert ("user", "ann") not in model.release.users
        await model.calls.forget(model.release, ("user", "nobody"))

    run(ask())
    assert (model.cache.counters.misses, model.cache.counters.hits) == (2, 0)


def test_no_call_keeps_its_place(model: Model) -> None:
    good, bad = RecommendRequest(), RecommendRequest(filter="colour = 1")

    async def ask() -> None:
        await model.calls.recommend(model.release, of(good), model.place(good))
        with pytest.raises(ApiError, match="filter"):
            await model.calls.recommend(model.release, of(bad), model.place(bad))
        await model.calls.recommend_aside(model.release, of(good))
        await model.calls.forget(model.release, ("user", "ann"))
        assert await model.calls.alone(lambda: 7, time.monotonic() + 10) == 7

    run(ask())
    assert (model.engine.num_reserved, model.engine.reserved_cost, model.engine.queued_cost) == (0, 0, 0)
    assert not model.admission._queued, "nobody is said to be read any more"


def test_whoever_is_not_answered_in_time_is_told_so_and_counted(model: Model) -> None:
    request = RecommendRequest()

    async def ask() -> None:
        gate, blocker = await model.block()
        with pytest.raises(ApiError) as late:
            await model.calls.recommend(model.release, of(request), model.place(request, timeout_s=0.05))
        assert (late.value.code, late.value.status) == ("deadline_exceeded", 504)
        with pytest.raises(ApiError, match="engine"):
            await model.calls.alone(lambda: 7, time.monotonic() + 0.05)
        gate.set()
        await blocker

    run(ask())
    assert model.count("twotower_deadline_exceeded_total", stage="engine") == 2
    assert not model.admission._queued


def test_what_no_client_waits_for_is_refused_without_being_counted(model: Model) -> None:
    request = RecommendRequest()

    async def ask() -> None:
        gate, blocker = await model.block()
        places = [model.place(request) for _ in range(8)]
        with pytest.raises(ApiError, match="try again"):
            await model.calls.recommend_aside(model.release, of(request))
        assert model.count("twotower_admission_rejected_total", reason="queue_full") == 0
        with pytest.raises(ApiError, match="try again"):
            await model.calls.forget(model.release, ("user", "ann"))
        with pytest.raises(ApiError, match="try again"):
            await model.calls.alone(lambda: 7, math.inf)
        assert model.count("twotower_admission_rejected_total", reason="queue_full") == 2
        for place in places:
            place.give_back()
        gate.set()
        await blocker
        assert len((await model.calls.recommend_aside(model.release, of(request))).items) == 10

    run(ask())


def test_explanations_that_no_client_waits_for_let_others_go_first_too(model: Model, ann: UserHistory) -> None:
    why, what = RecommendRequest(user_id="ann", explain=True, num_results=3), RecommendRequest(user_id="bob")
    order: list[str] = []

    async def ask() -> None:
        gate, blocker = await model.block()

        async def note(name: str, call: Awaitable[Any]) -> None:
            await call
            order.append(name)

        aside = asyncio.create_task(note("aside", model.calls.recommend_aside(model.release, of(why, ann))))
        await asyncio.sleep(0.01)
        assert (model.engine.num_patient, model.engine.queued_cost) == (1, 0)
        other = asyncio.create_task(note("other", model.calls.recommend(model.release, of(what), model.place(what))))
        await asyncio.sleep(0.01)
        gate.set()
        await asyncio.gather(blocker, aside, other)
        places = [model.place(why) for _ in range(MAX_PATIENT)]
        with pytest.raises(ApiError, match="explanations"):
            await model.calls.recommend_aside(model.release, of(why, ann))
        for place in places:
            place.give_back()

    run(ask())
    assert order == ["other", "aside"]
