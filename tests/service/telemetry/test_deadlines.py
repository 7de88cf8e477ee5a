"""Until when a request must be answered, and the end of whatever takes longer."""

import asyncio
import time

import pytest
from prometheus_client import CollectorRegistry

from service.api.errors import ApiError
from service.telemetry.deadlines import Deadlines
from service.telemetry.metrics import Metrics
from service.telemetry.request_record import RECORD, RequestRecord


@pytest.fixture
def deadlines() -> Deadlines:
    return Deadlines(Metrics(CollectorRegistry()), request_timeout_s=2.5)


def num_late(deadlines: Deadlines, stage: str) -> float:
    return deadlines.metrics.registry.get_sample_value("twotower_deadline_exceeded_total", {"stage": stage}) or 0.0


def test_a_request_has_the_time_that_it_names_or_else_that_of_the_server(deadlines: Deadlines) -> None:
    assert (deadlines.of(100.0), deadlines.of(100.0, 30), deadlines.of(100.0, 60_000)) == (102.5, 100.03, 160.0)
    assert deadlines.from_now() == pytest.approx(time.monotonic() + 2.5, abs=0.5)


def test_a_call_that_is_done_in_time_gives_its_result_and_is_timed_as_a_stage(deadlines: Deadlines) -> None:
    record = RequestRecord("id", 0.0)

    async def call() -> str:
        RECORD.set(record)
        return await deadlines.within("engine", asyncio.sleep(0.01, "done"), time.monotonic() + 5)

    assert asyncio.run(call()) == "done"
    ((stage, started_s, ended_s),) = record.stages
    assert (stage, num_late(deadlines, "engine")) == ("engine", 0)
    assert ended_s - started_s >= 0.009


@pytest.mark.parametrize("left_s", [0.02, 0.0, -3.0])
def test_a_late_call_is_cancelled_refused_and_counted(deadlines: Deadlines, left_s: float) -> None:
    ended = list[str]()

    async def work() -> None:
        try:
            await asyncio.sleep(30)
            ended.append("done")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def call() -> None:
        await deadlines.within("history", work(), time.monotonic() + left_s)

    with pytest.raises(ApiError, match="during this stage: history") as refused:
        asyncio.run(call())
    assert refused.value.code == "deadline_exceeded"
    assert (num_late(deadlines, "history"), num_late(deadlines, "engine")) == (1, 0)
    assert ended == ["cancelled"]


def test_any_other_error_is_raised_as_it_is(deadlines: Deadlines) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(deadlines.within("engine", fail(), time.monotonic() + 5))
    assert num_late(deadlines, "engine") == 0
