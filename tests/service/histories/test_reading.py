"""Reads and writes of a history store on behalf of requests."""

import asyncio
import time
from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry

from service.api.errors import ApiError
from service.api.schemas import HistoryMode, RecommendRequest
from service.histories.history import HistoryStore, HistoryUnavailable, StoredEvent, UserHistory
from service.histories.reading import HISTORY_UNAVAILABLE, HistoryReader
from service.telemetry.deadlines import Deadlines
from service.telemetry.metrics import Metrics
from tests.service.conftest import MemoryHistory, UnreachableHistory

HISTORY = UserHistory().extended([StoredEvent(user_id="ann", event_type="view", time_ms=1, item_id="hat")])


class NotingHistory(MemoryHistory):
    """Notes who is read, and takes its time."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.users["ann"], self.seconds, self.read_ids = HISTORY, seconds, list[str]()

    async def read(self, user_id: str, known: UserHistory | None = None) -> UserHistory:
        self.read_ids.append(user_id)
        await asyncio.sleep(self.seconds)
        return await super().read(user_id, known)


def reader(store: HistoryStore, request_timeout_s: float = 5.0) -> HistoryReader:
    metrics = Metrics(CollectorRegistry())
    return HistoryReader(store, metrics, Deadlines(metrics, request_timeout_s))


def read(histories: HistoryReader, request: RecommendRequest, seconds: float = 5.0) -> tuple[UserHistory | None, list[str]]:
    async def call() -> tuple[UserHistory | None, list[str]]:
        return await histories.read(request, time.monotonic() + seconds)

    return asyncio.run(call())


def num_errors(histories: HistoryReader, op: str, reason: str = "unreachable") -> float:
    sample = histories.metrics.registry.get_sample_value
    return sample("twotower_history_errors_total", {"op": op, "reason": reason}) or 0.0


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("mode", ["append", "stored"])
def test_the_stored_history_of_the_user_is_read(mode: HistoryMode, strict: bool) -> None:
    store = NotingHistory()
    assert read(reader(store), RecommendRequest(user_id="ann", history_mode=mode, strict=strict)) == (HISTORY, [])
    assert read(reader(store), RecommendRequest(user_id="bob", strict=strict)) == (UserHistory(), [])
    assert store.read_ids == ["ann", "bob"]


@pytest.mark.parametrize(
    "without",
    [
        RecommendRequest(),
        RecommendRequest(session_id="s", strict=True),
        RecommendRequest(user_id="ann", history_mode="replace"),
        RecommendRequest(user_id="ann", history_mode="replace", strict=True),
    ],
)
def test_nothing_is_read_for_a_request_without_a_user_or_with_a_history_of_its_own(without: RecommendRequest) -> None:
    store = NotingHistory()
    assert read(reader(store), without) == (None, [])
    assert read(reader(UnreachableHistory()), without) == (None, [])
    assert store.read_ids == []


def test_a_store_that_cannot_be_asked_leaves_a_note_and_is_counted() -> None:
    histories = reader(UnreachableHistory())
    assert read(histories, RecommendRequest(user_id="ann")) == (None, [HISTORY_UNAVAILABLE])
    assert num_errors(histories, "read") == 1


def test_a_strict_request_is_refused_instead() -> None:
    histories = reader(UnreachableHistory())
    with pytest.raises(ApiError) as refused:
        read(histories, RecommendRequest(user_id="ann", strict=True))
    assert (refused.value.code, num_errors(histories, "read")) == ("history_unavailable", 1)


@pytest.mark.parametrize("strict", [False, True])
def test_a_read_ends_with_the_time_of_its_request(strict: bool) -> None:
    histories = reader(NotingHistory(seconds=30))
    with pytest.raises(ApiError) as refused:
        read(histories, RecommendRequest(user_id="ann", strict=strict), seconds=0.02)
    assert (refused.value.code, num_errors(histories, "read")) == ("deadline_exceeded", 0)


class FullHistory(MemoryHistory):
    """A HistoryStore without room."""

    async def append(self, events: Sequence[StoredEvent]) -> list[bool]:
        raise HistoryUnavailable("no room", "full")


def test_a_write_that_is_not_confirmed_is_refused_with_its_reason_and_counted() -> None:
    histories = reader(FullHistory())
    with pytest.raises(ApiError, match=r"did not answer \(full\)") as refused:
        asyncio.run(histories.confirmed("append", histories.store.append([])))
    assert (refused.value.code, refused.value.status) == ("history_unavailable", 503)
    assert num_errors(histories, "append", "full") == 1


def test_a_call_that_is_confirmed_gives_its_result() -> None:
    histories = reader(NotingHistory())
    assert asyncio.run(histories.confirmed("delete", histories.store.delete("ann"))) == 1


def test_without_a_deadline_a_call_has_the_time_of_the_server() -> None:
    histories = reader(NotingHistory(seconds=30), request_timeout_s=0.02)
    with pytest.raises(ApiError) as refused:
        asyncio.run(histories.confirmed("read", histories.store.read("ann")))
    assert refused.value.code == "deadline_exceeded"
