"""What all routes that ask the model do."""

import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from service.api.errors import ApiError
from service.api.schemas import RecommendRequest
from service.engine.thread import Place
from service.histories.history import UserHistory
from service.ranking.user_request import ANSWER_COST, UserRequest
from service.release.loaded import LoadedRelease
from service.routes.asking import ModelAnswer, ask_model
from service.routes.context import Context
from service.telemetry.request_record import RECORD, RequestRecord
from tests.service.conftest import NOW_MS, Client, MemoryHistory, UnreachableHistory
from tests.service.routes.bodies import event


def ask(client: Client, call: Any, **fields: Any) -> ModelAnswer[RecommendRequest, Any]:
    return client.run(ask_model(client.context, RecommendRequest(**fields), time.monotonic(), call))


def test_the_call_gets_the_release_the_request_with_its_history_and_a_place_until_its_deadline(client: Client) -> None:
    client.post("/v1/events", {"events": [event("item-1"), event("item-2")]})
    seen: list[tuple[LoadedRelease, UserRequest[RecommendRequest], Place]] = []

    async def call(release: LoadedRelease, user: UserRequest[RecommendRequest], place: Place) -> str:
        seen.append((release, user, place))
        assert client.context.engine.reserved_cost == place.cost > 0
        return "a result"

    started_s = time.monotonic()
    answer = ask(client, call, user_id="ann", timestamp=NOW_MS, timeout_ms=5000)
    ((release, user, place),) = seen
    assert release is client.context.served.current is answer.chosen.release
    assert (len(user.stored.events), user.now_ms) == (2, NOW_MS)
    assert place.deadline_s == pytest.approx(started_s + 5, abs=1)
    assert (answer.result, answer.history_seq, answer.degraded, answer.user_request) == ("a result", 2, [], user)
    assert client.context.engine.reserved_cost == 0


def test_a_request_without_a_timestamp_is_about_now(client: Client) -> None:
    async def call(_: LoadedRelease, user: UserRequest[RecommendRequest], place: Place) -> int:
        return user.now_ms

    before_ms = time.time_ns() // 1_000_000
    answer = ask(client, call)
    assert before_ms <= answer.result <= time.time_ns() // 1_000_000
    assert (answer.user_request.stored, answer.history_seq) == (UserHistory(), None)


@pytest.mark.parametrize("error", [ApiError("overloaded", "no"), ZeroDivisionError()])
def test_the_place_is_given_back_whatever_the_call_raises(client: Client, error: Exception) -> None:
    async def call(*_: Any) -> None:
        raise error

    with pytest.raises(type(error)):
        ask(client, call)
    assert client.context.engine.reserved_cost == 0


def test_it_is_given_back_when_there_is_no_history_for_a_strict_request(connect: Callable[..., Client]) -> None:
    client = connect(UnreachableHistory())

    async def call(*_: Any) -> None:
        raise AssertionError("it is not called")

    with pytest.raises(ApiError, match="history store"):
        ask(client, call, user_id="ann", strict=True)
    assert client.context.engine.reserved_cost == 0


class SlowHistory(MemoryHistory):
    """Does something else while a history is read."""

    meanwhile: Callable[[], Any]

    async def read(self, user_id: str, known: UserHistory | None = None) -> UserHistory:
        await self.meanwhile()
        return await super().read(user_id, known)


def test_a_release_that_is_swapped_in_while_the_history_is_read_answers_the_next_request(
    connect: Callable[..., Client], release: LoadedRelease
) -> None:
    history, other = SlowHistory(), replace(release, id="release-ffffffffffff")
    client = connect(history)
    history.meanwhile = lambda: client.context.served.swap(other)

    async def call(release: LoadedRelease, *_: Any) -> LoadedRelease:
        return release

    assert ask(client, call, user_id="ann").result is release
    assert client.context.served.current is other


def test_while_a_history_is_read_its_request_counts_as_waiting(connect: Callable[..., Client]) -> None:
    history, user = SlowHistory(), uuid.uuid4().hex
    client = connect(history)
    seen = list[int]()

    async def look() -> None:
        seen.append(client.context.engine.reserved_cost)

    history.meanwhile = look
    client.recommend(user_id=user)
    client.recommend(user_id=user)
    assert seen == [ANSWER_COST + 256, ANSWER_COST]  # the second time the user's state is kept


def test_the_record_names_the_user_and_the_release(client: Client, release: LoadedRelease) -> None:
    record = RequestRecord("id", 0.0)

    async def call(*_: Any) -> None:
        return None

    async def noted(context: Context) -> None:
        RECORD.set(record)
        await ask_model(context, RecommendRequest(user_id="ann"), time.monotonic(), call)

    client.run(noted(client.context))
    assert (record.user_id, record.release) == ("ann", release.id)
