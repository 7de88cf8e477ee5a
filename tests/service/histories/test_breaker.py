import asyncio

import pytest

from service.histories.breaker import Breaker, CircuitOpen


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def fail(breaker: Breaker, error: BaseException | None = None) -> None:
    error = error or ConnectionError("down")
    with pytest.raises(type(error)), breaker.attempt():
        raise error


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(OSError, threshold=3, pause_s=1.0, clock=clock)
    for _ in range(3):
        fail(breaker)
    return breaker


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    breaker = Breaker(OSError, threshold=3)
    fail(breaker)
    fail(breaker)
    with breaker.attempt():
        pass
    states = []
    for _ in range(3):
        fail(breaker)
        states.append(breaker.is_open)
    assert states == [False, False, True]
    with pytest.raises(CircuitOpen), breaker.attempt():
        raise AssertionError("asked though open")


def test_another_error_is_an_answer() -> None:
    breaker = Breaker(OSError, threshold=1)
    fail(breaker, ValueError())
    assert not breaker.is_open


def test_after_the_pause_one_call_tries_and_its_success_closes() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now_s += 1.21  # a pause and its jitter
    with breaker.attempt(), pytest.raises(CircuitOpen), breaker.attempt():
        pass
    assert not breaker.is_open


def test_a_try_that_fails_begins_another_pause() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now_s += 1.21
    fail(breaker)
    clock.now_s += 0.79
    with pytest.raises(CircuitOpen), breaker.attempt():
        pass
    clock.now_s += 0.42
    with breaker.attempt():
        pass
    assert not breaker.is_open


def test_calls_that_fail_after_it_opened_do_not_lengthen_the_pause() -> None:
    clock = Clock()
    breaker = Breaker(OSError, threshold=1, clock=clock)
    late = breaker.attempt()
    late.__enter__()
    fail(breaker)
    clock.now_s += 1.0
    assert not late.__exit__(OSError, OSError(), None)
    clock.now_s += 0.21
    with breaker.attempt():
        pass


def test_a_cancelled_try_leaves_room_for_the_next() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now_s += 1.21
    fail(breaker, asyncio.CancelledError())
    assert breaker.is_open
    with breaker.attempt():
        pass
    assert not breaker.is_open
