"""Who is let in, for how much, and what is counted when somebody is not."""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from service.api.errors import ApiError
from service.api.schemas import RecommendRequest
from service.engine.admission import Admission
from service.engine.thread import MAX_PATIENT, Batched, Engine, Limits
from service.histories.history import KEPT_EVENTS, StoredEvent, UserHistory
from service.ranking.queries import new_state
from service.ranking.user_request import ANSWER_COST, UserRequest
from service.release.loaded import LoadedRelease
from service.states.cache import UserCache
from service.telemetry.metrics import Metrics
from tests.service.conftest import NOW_MS, Client, MemoryHistory

ANN = RecommendRequest(user_id="ann")
WHY = RecommendRequest(user_id="ann", explain=True)
CHECK = RecommendRequest(user_id="ann", validate_only=True)
UNREAD_COST = ANSWER_COST + KEPT_EVENTS


@dataclass
class Door:
    """The admission of an engine that does nothing yet, to a release of which no state is kept."""

    release: LoadedRelease
    engine: Engine
    admission: Admission
    metrics: Metrics

    @property
    def num_refused(self) -> float:
        return self.metrics.registry.get_sample_value("twotower_admission_rejected_total", {"reason": "queue_full"}) or 0.0


@pytest.fixture
def door(release: LoadedRelease) -> Door:
    engine, metrics = Engine(1, Limits(max_queued=2)), Metrics(CollectorRegistry())
    return Door(replace(release), engine, Admission(engine, metrics), metrics)


def history(release: LoadedRelease, num_events: int) -> UserHistory:
    return UserHistory().extended(
        StoredEvent(user_id="ann", event_type="view", time_ms=NOW_MS - number, item_id=release.item_ids[number % 9])
        for number in range(num_events)
    )


def know(release: LoadedRelease) -> None:
    """Keep a state of ann."""
    UserCache(1 << 20).put(release.users, ("user", "ann"), new_state(release))


def test_a_place_counts_from_the_moment_it_is_taken_until_the_block_ends(door: Door) -> None:
    with door.admission.take(door.release, ANN, math.inf):
        assert (door.engine.num_reserved, door.engine.reserved_cost) == (1, UNREAD_COST), "as much as there may be to read"
        with door.admission.take(door.release, RecommendRequest(user_id="bob"), math.inf):
            assert door.engine.reserved_cost == 2 * UNREAD_COST
        assert door.engine.reserved_cost == UNREAD_COST
    assert (door.engine.num_reserved, door.engine.reserved_cost) == (0, 0)


def test_a_place_is_given_back_when_the_history_cannot_be_read(door: Door) -> None:
    with pytest.raises(ZeroDivisionError), door.admission.take(door.release, ANN, math.inf):
        _ = 1 // 0
    assert (door.engine.num_reserved, door.engine.reserved_cost) == (0, 0)


def test_a_place_has_the_cost_that_is_known_once_the_history_is_read(door: Door) -> None:
    user_request = UserRequest(ANN, history(door.release, 7), NOW_MS)
    with door.admission.take(door.release, ANN, math.inf) as place, door.admission.queued(place, door.release, user_request):
        assert place.cost == door.engine.reserved_cost == ANSWER_COST + 7
    assert door.engine.reserved_cost == 0


def test_who_is_known_or_is_being_read_costs_only_an_answer(door: Door) -> None:
    user_request = UserRequest(ANN, history(door.release, 7), NOW_MS)
    with (
        door.admission.take(door.release, ANN, math.inf) as first,
        door.admission.queued(first, door.release, user_request),
        door.admission.take(door.release, ANN, math.inf) as second,
    ):
        assert (first.cost, second.cost) == (ANSWER_COST + 7, ANSWER_COST)
        with door.admission.queued(second, door.release, user_request):
            assert second.cost == ANSWER_COST
        with pytest.raises(ApiError):
            door.admission.take(door.release, ANN, math.inf)
    with door.admission.take(door.release, ANN, math.inf) as again:
        assert again.cost == UNREAD_COST, "nobody reads her any more"
    know(door.release)
    with door.admission.take(door.release, ANN, math.inf) as known:
        assert known.cost == ANSWER_COST


def test_a_request_that_is_only_checked_costs_nothing(door: Door) -> None:
    with door.admission.take(door.release, CHECK, math.inf) as place:
        assert (place.cost, place.is_patient) == (0, False)
        with door.admission.queued(place, door.release, UserRequest(CHECK, history(door.release, 7), NOW_MS)):
            assert place.cost == 0


def test_refusals_are_counted_once_each(door: Door) -> None:
    places = [door.admission.take(door.release, ANN, math.inf) for _ in range(2)]
    for number in (1, 2):
        with pytest.raises(ApiError) as refused:
            door.admission.take(door.release, ANN, math.inf)
        assert (refused.value.code, door.num_refused) == ("overloaded", number)
    with pytest.raises(ApiError):
        door.admission.take_alone(math.inf)
    assert door.num_refused == 3
    for place in places:
        place.give_back()
    with door.admission.take_alone(math.inf) as place:
        assert place.cost == 0
    assert door.num_refused == 3


def test_an_early_refusal_is_the_one_that_would_come_and_takes_nothing(door: Door) -> None:
    for _ in range(5):
        door.admission.refuse_early(door.release, ANN, math.inf)
    assert (door.engine.num_reserved, door.engine.reserved_cost, door.num_refused) == (0, 0, 0)
    with door.admission.take(door.release, ANN, math.inf), door.admission.take(door.release, ANN, math.inf):
        with pytest.raises(ApiError) as refused:
            door.admission.refuse_early(door.release, ANN, math.inf)
        assert (refused.value.code, door.num_refused) == ("overloaded", 1)
        assert door.engine.num_reserved == 2
        door.admission.refuse_early(door.release, WHY, math.inf)  # it waits elsewhere


def test_requests_for_explanations_have_places_of_their_own(door: Door) -> None:
    places = [door.admission.take(door.release, WHY, math.inf) for _ in range(MAX_PATIENT)]
    assert all(place.is_patient for place in places)
    assert (door.engine.num_reserved, door.engine.reserved_cost, door.engine.wait_s) == (0, 0, 0)
    with pytest.raises(ApiError) as refused:
        door.admission.refuse_early(door.release, WHY, math.inf)
    assert (refused.value.code, door.num_refused) == ("overloaded", 1)
    with pytest.raises(ApiError):
        door.admission.take(door.release, WHY, math.inf)
    assert door.num_refused == 2
    door.admission.take(door.release, ANN, math.inf).give_back()
    places[0].give_back()
    door.admission.refuse_early(door.release, WHY, math.inf)


def test_an_engine_that_is_lost_says_so_and_nothing_is_counted(door: Door) -> None:
    door.engine.abandon(ApiError("not_ready", "lost"))
    for request in (ANN, WHY):
        with pytest.raises(ApiError, match="lost"):
            door.admission.take(door.release, request, math.inf)
    assert door.num_refused == 0


def test_it_is_busy_when_what_waits_takes_longer_than_a_moment(door: Door) -> None:
    def slow(of: None, batch: Sequence[None]) -> Sequence[None]:
        time.sleep(0.02)
        return batch

    async def run() -> None:
        door.engine.start()
        with door.engine.take_place(10, math.inf) as place:
            await door.engine.submit_to(Batched(slow, None), None, place)
        was_busy = door.admission.is_busy
        with door.admission.take(door.release, ANN, math.inf):
            is_busy = door.admission.is_busy
        assert (was_busy, is_busy) == (False, True), "its history is being read, and nobody waits in the queue"
        door.engine.close()

    asyncio.run(run())


class SlowHistory(MemoryHistory):
    """Reads when it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def read(self, user_id: str, known: UserHistory | None = None) -> UserHistory:
        await self.gate.wait()
        return await super().read(user_id, known)


def test_a_server_counts_those_whose_history_is_read(connect: Any) -> None:
    store = SlowHistory()
    client: Client = connect(store, max_queued=2)

    async def run() -> list[int]:
        calls = [asyncio.create_task(client.http.post("/v1/recommend", json={"user_id": f"user {n}"})) for n in range(3)]
        await asyncio.wait(calls[2:], timeout=5)
        assert [call.done() for call in calls] == [False, False, True]
        assert client.context.engine.num_reserved == 2
        store.gate.set()
        return [(await call).status_code for call in calls]

    assert client.run(run()) == [200, 200, 503]
    assert client.context.engine.num_reserved == 0
    assert 'twotower_admission_rejected_total{reason="queue_full"} 1.0' in client.get("/metrics").text
