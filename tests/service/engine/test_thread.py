import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import pytest

from service.api.errors import ApiError
from service.engine import thread
from service.engine.thread import MAX_PATIENT, Batched, Engine, Limits, Place

T = TypeVar("T")


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
        task = asyncio.create_task(alone(engine, self.run))
        await asyncio.to_thread(self.running.wait)
        return task


def soon() -> float:
    return time.monotonic() + 30


async def alone(engine: Engine, run: Callable[[], T]) -> T:
    """Work that has a place of its own, and that goes in no batch."""
    with engine.take_place(0, soon()) as place:
        return await engine.submit(run, place)


async def ask(engine: Engine, batched: Batched, argument: Any, cost: int) -> Any:
    with engine.take_place(cost, soon()) as place:
        return await engine.submit_to(batched, argument, place)


async def ask_patiently(engine: Engine, batched: Batched, argument: Any, cost: int = 0) -> Any:
    with engine.take_patient_place(cost, soon()) as place:
        return await engine.submit_to(batched, argument, place)


async def turns() -> None:
    """Let every task begin."""
    for _ in range(3):
        await asyncio.sleep(0)


def slow(of: None, costs: Sequence[int]) -> Sequence[int]:
    """A hundredth of a second for each unit of cost."""
    time.sleep(0.01 * sum(costs))
    return costs


class Order:
    """Work that notes when its turn comes."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.work = Batched(self._note, None)

    def _note(self, of: None, names: Sequence[str]) -> Sequence[str]:
        self.done.extend(names)
        return names


def test_work_runs_on_one_thread_that_is_not_the_callers(engine: Engine) -> None:
    async def run() -> list[str]:
        return [await alone(engine, lambda: threading.current_thread().name) for _ in range(3)]

    assert asyncio.run(run()) == ["engine"] * 3


def test_an_error_reaches_its_caller_and_nobody_else(engine: Engine) -> None:
    async def run() -> int:
        with pytest.raises(ZeroDivisionError):
            await alone(engine, lambda: 1 // 0)
        return await alone(engine, lambda: 7)

    assert asyncio.run(run()) == 7


def test_work_whose_time_is_over_is_not_run(engine: Engine) -> None:
    done: list[int] = []

    async def run() -> None:
        with pytest.raises(ApiError, match="deadline passed") as refused:
            await engine.submit(lambda: done.append(1), Place(engine, 0, time.monotonic() - 1))
        assert refused.value.status == 504

    asyncio.run(run())
    assert done == []


def test_cancelled_work_is_dropped_from_the_queue(engine: Engine) -> None:
    done: list[int] = []
    block = Blocker()

    async def run() -> None:
        blocker = await block.start(engine)
        waiting = asyncio.create_task(alone(engine, lambda: done.append(1)))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        block.gate.set()
        await blocker
        await alone(engine, lambda: None)

    asyncio.run(run())
    assert done == []


def test_a_full_queue_refuses_at_once(engine: Engine) -> None:
    block = Blocker()

    async def run() -> None:
        tasks = [await block.start(engine)]
        tasks += [asyncio.create_task(alone(engine, lambda: True)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="try again") as refused:
            await alone(engine, lambda: True)
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
        tasks = [asyncio.create_task(alone(engine, lambda i=i: done.append(i))) for i in range(5)]  # type: ignore[misc]
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
        tasks = [asyncio.create_task(ask(engine, work, n, 1)) for n in range(2)]
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
        tasks = [asyncio.create_task(ask(engine, work, cost, cost)) for work, cost in asked]
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
        tasks = [asyncio.create_task(ask(engine, work, n, 1)) for n in (0, 4)]
        await asyncio.sleep(0)
        block.gate.set()
        await blocker
        return await asyncio.gather(*tasks, return_exceptions=True)

    failed, answered = asyncio.run(run())
    assert isinstance(failed, ZeroDivisionError)
    assert answered == 0.25


def test_who_would_wait_too_long_is_refused_at_once() -> None:
    engine, block = Engine(1, Limits(max_wait_s=0.2)), Blocker()

    async def run() -> list[str]:
        engine.start()
        work = Batched(slow, None)
        for _ in range(30):
            await ask(engine, work, 1, 1)
        blocker = await block.start(engine)
        asked = [asyncio.create_task(ask(engine, work, 10, 10)) for _ in range(8)]
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


@pytest.mark.parametrize("place", [0, 1, 4, 5, 9, 50])
def test_one_slow_batch_does_not_decide_who_is_refused(place: int) -> None:
    """Of batches that all take 1 ms per unit of cost, the one at `place` takes a thousand times that."""
    engine = Engine(1)
    for batch in range(place + 2):
        engine._learn(1.0 if batch == place else 0.001)
    assert sum(engine.pace) < 0.002


def test_the_pace_follows_when_all_batches_become_slower() -> None:
    engine = Engine(1)
    for _ in range(10):
        engine._learn(0.001)
    for _ in range(60):
        engine._learn(0.004)
    assert engine.pace[0] == pytest.approx(0.004, rel=0.05)


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
        waiting = [await block.start(engine), asyncio.create_task(alone(engine, lambda: True))]
        await asyncio.sleep(0)
        engine.abandon(ApiError("not_ready", "lost"))
        for task in waiting:
            with pytest.raises(ApiError, match="lost"):
                await task
        with pytest.raises(ApiError, match="lost"):
            await alone(engine, lambda: True)
        engine.close()

    asyncio.run(run())
    assert engine.trouble(limit_s=10.0) is None  # it was only left to itself


def test_what_is_made_ready_counts_as_waiting() -> None:
    engine = Engine(1, Limits(max_wait_s=0.2))

    async def run() -> None:
        engine.start()
        for _ in range(10):
            await ask(engine, Batched(slow, None), 1, 1)
        with engine.take_place(30, soon()), pytest.raises(ApiError, match="try again"):
            engine.take_place(1, soon())
        await ask(engine, Batched(slow, None), 1, 1)
        await asyncio.to_thread(engine.close)

    asyncio.run(run())


def test_as_many_places_are_held_as_may_wait(engine: Engine) -> None:
    places = [engine.take_place(0, soon()) for _ in range(2)]
    with pytest.raises(ApiError, match="2 requests are waiting already"):
        engine.take_place(0, soon())
    places[0].give_back()
    engine.take_place(0, soon())


def test_a_place_is_given_back_once_however_it_ends(engine: Engine) -> None:
    def held() -> tuple[int, int]:
        return engine.num_reserved, engine.reserved_cost

    with engine.take_place(30, soon()) as place:
        assert held() == (1, 30)
        place.resize(7)
        assert held() == (1, 7)
        place.give_back()
        place.give_back()
        place.resize(9)
        assert (*held(), place.cost) == (0, 0, 9)
    assert held() == (0, 0)

    async def run() -> None:
        with engine.take_place(30, soon()) as place:
            asked = asyncio.create_task(engine.submit_to(Batched(slow, None), 1, place))
            await turns()
            assert held() == (0, 0)
            assert engine.queued_cost == 30, "it counts once: as a place, then as waiting work"
            await asked
        assert (*held(), engine.queued_cost) == (0, 0, 0)

    asyncio.run(run())


def test_a_patient_request_lets_others_go_first(engine: Engine) -> None:
    block, order = Blocker(), Order()

    async def run() -> None:
        blocker = await block.start(engine)
        asked = [asyncio.create_task(ask_patiently(engine, order.work, name)) for name in ("first", "second")]
        await turns()
        asked += [asyncio.create_task(ask(engine, order.work, name, 1)) for name in ("other", "another")]
        await turns()
        block.gate.set()
        await asyncio.gather(blocker, *asked)

    asyncio.run(run())
    assert order.done == ["other", "another", "first", "second"]


def test_a_patient_request_that_waited_for_a_second_goes_first_and_the_next_one_a_second_later(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert thread._PATIENCE_S == 1.0
    monkeypatch.setattr(thread, "_PATIENCE_S", 0.1)
    block, order = Blocker(), Order()

    async def run() -> None:
        blocker = await block.start(engine)
        asked = [asyncio.create_task(ask_patiently(engine, order.work, name)) for name in ("first", "second")]
        asked += [asyncio.create_task(ask(engine, order.work, name, 1)) for name in ("other", "another")]
        await asyncio.sleep(0.2)
        block.gate.set()
        await asyncio.gather(blocker, *asked)

    asyncio.run(run())
    assert order.done == ["first", "other", "another", "second"]


def test_a_patient_request_that_is_cancelled_keeps_neither_its_room_nor_its_turn(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread, "_PATIENCE_S", 0.1)
    block, order = Blocker(), Order()

    async def run() -> None:
        blocker = await block.start(engine)
        gone = [asyncio.create_task(ask_patiently(engine, order.work, "gone")) for _ in range(MAX_PATIENT)]
        await turns()
        for task in gone:
            task.cancel()
        await asyncio.wait(gone)
        assert engine.num_patient == 0
        asked = [asyncio.create_task(ask_patiently(engine, order.work, "patient"))]
        asked += [asyncio.create_task(ask(engine, order.work, "other", 1))]
        await asyncio.sleep(0.2)
        block.gate.set()
        await asyncio.gather(blocker, *asked)

    asyncio.run(run())
    assert order.done == ["patient", "other"]


def test_only_so_many_patient_requests_wait_those_that_are_made_ready_among_them(engine: Engine) -> None:
    block, order = Blocker(), Order()

    async def run() -> None:
        blocker = await block.start(engine)
        asked = [asyncio.create_task(ask_patiently(engine, order.work, "patient")) for _ in range(MAX_PATIENT - 1)]
        await turns()
        with engine.take_patient_place(1, soon()):
            with pytest.raises(ApiError, match=f"{MAX_PATIENT} requests for explanations") as refused:
                engine.take_patient_place(1, soon())
            assert refused.value.code == "overloaded"
            engine.take_place(1, soon()).give_back()  # the others are let in
        engine.take_patient_place(1, soon()).give_back()
        block.gate.set()
        await asyncio.gather(blocker, *asked)

    asyncio.run(run())


def test_what_a_patient_request_costs_is_nobodys_wait_until_it_is_worked_on(engine: Engine) -> None:
    block, running = Blocker(), Blocker()

    def stand(of: None, costs: Sequence[int]) -> Sequence[int]:
        running.run()
        return costs

    async def run() -> None:
        await ask(engine, Batched(slow, None), 1, 1)
        pace = engine.pace
        blocker = await block.start(engine)
        with engine.take_patient_place(10**6, soon()) as place:
            assert engine.wait_s == 0
            asked = asyncio.create_task(engine.submit_to(Batched(stand, None), 1, place))
            await turns()
            assert (engine.num_patient, engine.wait_s, engine.has_room(1, soon())) == (1, 0, True)
            block.gate.set()
            await blocker
            await asyncio.to_thread(running.running.wait)
            assert not engine.has_room(1, soon()), "now it keeps the engine busy"
            running.gate.set()
            await asked
        assert (engine.wait_s, engine.has_room(1, soon())) == (0, True)
        assert engine.pace == pace, "it says nothing about how long others take"

    asyncio.run(run())


def test_closing_finishes_patient_work_too() -> None:
    engine, order = Engine(1, Limits()), Order()

    async def run() -> None:
        engine.start()
        asked = [asyncio.create_task(ask_patiently(engine, order.work, "patient")) for _ in range(3)]
        await turns()
        await asyncio.to_thread(engine.close)
        await asyncio.gather(*asked)

    asyncio.run(run())
    assert order.done == ["patient"] * 3


def test_work_that_does_not_set_the_pace_leaves_it_as_it_was(engine: Engine) -> None:
    """A softmax over the catalogue must not make recommendations look slow."""

    def slow(_: object, arguments: Sequence[Any]) -> Sequence[Any]:
        time.sleep(0.02)
        return arguments

    async def ask(sets_pace: bool) -> None:
        place = engine.take_place(10, math.inf)
        await engine.submit_to(Batched(slow, None, sets_pace=sets_pace), 1, place)

    asyncio.run(ask(False))
    assert engine.pace == (0.0, 0.0)
    asyncio.run(ask(True))
    assert engine.pace[0] >= 0.002
