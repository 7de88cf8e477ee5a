import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from service.api.errors import ApiError
from service.engine.thread import Batched, Engine, Limits


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(1, Limits(max_queued=2))
    engine.start()
    yield engine
    engine.close()


class Blocker:
    """Work that says when it runs and ends when told."""

    def __init__(self) -> None:
        self.running, self.gate = threading.Event(), threading.Event()

    def run(self) -> bool:
        self.running.set()
        return self.gate.wait()

    async def start(self, engine: Engine) -> "asyncio.Task[bool]":
        task = asyncio.create_task(engine.submit(self.run, soon()))
        await asyncio.to_thread(self.running.wait)
        return task


def soon() -> float:
    return time.monotonic() + 30


def test_work_runs_on_one_thread_that_is_not_the_callers(engine: Engine) -> None:
    async def run() -> list[str]:
        return [await engine.submit(lambda: threading.current_thread().name, soon()) for _ in range(3)]

    assert asyncio.run(run()) == ["engine"] * 3


def test_an_error_reaches_its_caller_and_nobody_else(engine: Engine) -> None:
    async def run() -> int:
        with pytest.raises(ZeroDivisionError):
            await engine.submit(lambda: 1 // 0, soon())
        return await engine.submit(lambda: 7, soon())

    assert asyncio.run(run()) == 7


def test_work_whose_time_is_over_is_not_run(engine: Engine) -> None:
    done: list[int] = []

    async def run() -> None:
        with pytest.raises(ApiError, match="time was over") as refused:
            await engine.submit(lambda: done.append(1), time.monotonic() - 1)
        assert refused.value.status == 504

    asyncio.run(run())
    assert done == []


def test_cancelled_work_is_dropped_from_the_queue(engine: Engine) -> None:
    done: list[int] = []
    block = Blocker()

    async def run() -> None:
        blocker = await block.start(engine)
        waiting = asyncio.create_task(engine.submit(lambda: done.append(1), soon()))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        block.gate.set()
        await blocker
        await engine.submit(lambda: None, soon())

    asyncio.run(run())
    assert done == []


def test_a_full_queue_refuses_at_once(engine: Engine) -> None:
    block = Blocker()

    async def run() -> None:
        tasks = [await block.start(engine)]
        tasks += [asyncio.create_task(engine.submit(lambda: True, soon())) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="try again") as refused:
            await engine.submit(lambda: True, soon())
        assert refused.value.status == 503
        block.gate.set()
        assert all(await asyncio.gather(*tasks))

    asyncio.run(run())


def test_the_heartbeat_grows_old_while_the_engine_is_stuck_and_is_young_when_idle(engine: Engine) -> None:
    block = Blocker()

    async def run() -> None:
        task = await block.start(engine)
        await asyncio.sleep(1.2)
        assert engine.heartbeat_age_s > 1.0
        block.gate.set()
        await task
        await asyncio.sleep(1.2)
        assert engine.heartbeat_age_s < 1.0

    asyncio.run(run())


def test_closing_finishes_what_is_queued() -> None:
    engine = Engine(1, Limits(max_queued=8))
    done: list[int] = []

    async def run() -> None:
        engine.start()
        tasks = [asyncio.create_task(engine.submit(lambda i=i: done.append(i), soon())) for i in range(5)]  # type: ignore[misc]
        await asyncio.sleep(0)
        await asyncio.to_thread(engine.close)
        await asyncio.gather(*tasks)

    asyncio.run(run())
    assert done == [0, 1, 2, 3, 4]


def test_what_gathers_while_the_engine_is_busy_is_done_together(engine: Engine) -> None:
    block, sizes = Blocker(), []

    def double(of: str, numbers: Sequence[int]) -> list[int]:
        sizes.append(len(numbers))
        return [2 * n for n in numbers]

    async def run() -> Any:
        blocker = await block.start(engine)
        work = Batched(double, "a release")
        tasks = [asyncio.create_task(engine.submit_to(work, n, 1, soon())) for n in range(2)]
        await asyncio.sleep(0)
        block.gate.set()
        await blocker
        return await asyncio.gather(*tasks)

    assert asyncio.run(run()) == [0, 2]
    assert sizes == [2]


def test_a_batch_never_mixes_releases_and_keeps_to_its_budget() -> None:
    engine, block, batches = Engine(1, Limits(batch_requests=3, batch_cost=10)), Blocker(), []

    def note(of: str, costs: Sequence[int]) -> Sequence[int]:
        batches.append((of, *costs))
        return costs

    async def run() -> None:
        engine.start()
        blocker = await block.start(engine)
        old, new = Batched(note, "old"), Batched(note, "new")
        asked = [(old, 1), (old, 2), (new, 1), (new, 9), (new, 4), (old, 1), (old, 1), (old, 1), (old, 1), (old, 99)]
        tasks = [asyncio.create_task(engine.submit_to(work, cost, cost, soon())) for work, cost in asked]
        await asyncio.sleep(0)
        block.gate.set()
        await asyncio.gather(blocker, *tasks)
        await asyncio.to_thread(engine.close)

    asyncio.run(run())
    assert batches == [("old", 1, 2), ("new", 1, 9), ("new", 4), ("old", 1, 1, 1), ("old", 1), ("old", 99)]


def test_one_poisoned_request_of_a_batch_fails_alone(engine: Engine) -> None:
    block = Blocker()

    def invert(of: None, numbers: Sequence[int]) -> list[float]:
        return [1 / n for n in numbers]

    async def run() -> Any:
        blocker = await block.start(engine)
        work = Batched(invert, None)
        tasks = [asyncio.create_task(engine.submit_to(work, n, 1, soon())) for n in (0, 4)]
        await asyncio.sleep(0)
        block.gate.set()
        await blocker
        return await asyncio.gather(*tasks, return_exceptions=True)

    failed, answered = asyncio.run(run())
    assert isinstance(failed, ZeroDivisionError)
    assert answered == 0.25


def test_who_would_wait_too_long_is_refused_at_once() -> None:
    engine, block = Engine(1, Limits(max_wait_s=0.2)), Blocker()

    def slow(of: None, costs: Sequence[int]) -> Sequence[int]:
        time.sleep(0.01 * sum(costs))
        return costs

    async def run() -> list[str]:
        engine.start()
        work = Batched(slow, None)
        for _ in range(30):
            await engine.submit_to(work, 1, 1, soon())
        blocker = await block.start(engine)
        asked = [asyncio.create_task(engine.submit_to(work, 10, 10, soon())) for _ in range(8)]
        await asyncio.sleep(0)
        outcomes = [a.exception().code if a.done() else "waits" for a in asked]  # type: ignore[union-attr]
        block.gate.set()
        await asyncio.gather(blocker, *asked, return_exceptions=True)
        await asyncio.to_thread(engine.close)
        return outcomes

    outcomes = asyncio.run(run())
    assert outcomes[0] == "waits"
    assert outcomes[-1] == "overloaded"
    assert sorted(outcomes, reverse=True) == outcomes


def test_an_engine_is_in_trouble_when_it_stands_still_or_has_ended(engine: Engine) -> None:
    block = Blocker()

    async def run() -> None:
        assert engine.trouble(limit_s=1.0) is None
        task = await block.start(engine)
        await asyncio.sleep(1.2)
        assert "has not moved for 1." in str(engine.trouble(limit_s=1.0))
        block.gate.set()
        await task

    asyncio.run(run())
    ended = Engine(1, Limits(max_queued=1))
    ended.start()
    ended.close()
    assert ended.trouble(limit_s=1.0) == "the engine has ended"


def test_an_abandoned_engine_answers_who_waits_and_who_comes_and_is_not_waited_for() -> None:
    engine, block = Engine(1, Limits(max_queued=2)), Blocker()
    engine.start()

    async def run() -> None:
        waiting = [await block.start(engine), asyncio.create_task(engine.submit(lambda: True, soon()))]
        await asyncio.sleep(0)
        engine.abandon(ApiError("not_ready", "lost"))
        for task in waiting:
            with pytest.raises(ApiError, match="lost"):
                await task
        with pytest.raises(ApiError, match="lost"):
            await engine.submit(lambda: True, soon())
        engine.close()

    asyncio.run(run())
    assert engine.trouble(limit_s=10.0) is None  # it was only left to itself


def test_what_is_made_ready_counts_as_waiting() -> None:
    engine = Engine(1, Limits(max_wait_s=0.2))

    def slow(of: None, costs: Sequence[int]) -> Sequence[int]:
        time.sleep(0.01 * sum(costs))
        return costs

    async def run() -> None:
        engine.start()
        for _ in range(10):
            await engine.submit_to(Batched(slow, None), 1, 1, soon())
        with engine.place_for(30, soon()):
            with pytest.raises(ApiError, match="try again"), engine.place_for(1, soon()):
                pass
            with pytest.raises(ApiError, match="try again"):
                await engine.submit_to(Batched(slow, None), 1, 1, soon())
        await engine.submit_to(Batched(slow, None), 1, 1, soon())
        await asyncio.to_thread(engine.close)

    asyncio.run(run())
