import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from service.engine import Engine, Limits
from service.errors import ApiError


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
