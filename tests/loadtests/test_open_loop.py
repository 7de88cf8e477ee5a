import asyncio
import random
from collections.abc import Iterator

import pytest

from loadtests import open_loop as module
from loadtests.connection import Connection
from loadtests.open_loop import Send, open_loop, poisson


def test_a_poisson_process_has_the_rate_of_each_phase() -> None:
    dues = list(poisson([(100.0, 10.0), (100.0, 40.0)], random.Random(0)))
    first = sum(due < 100 for due in dues)
    assert dues == sorted(dues)
    assert first == pytest.approx(1000, abs=4 * 1000**0.5)
    assert len(dues) - first == pytest.approx(4000, abs=4 * 4000**0.5)
    assert dues[-1] < 200


class Slow:
    """Requests that are answered when the test says so."""

    def __init__(self) -> None:
        self.begun, self.not_sent, self.connections = 0, 0, list[Connection]()
        self.answered = asyncio.Event()

    def next_send(self) -> Send:
        async def send(connection: Connection, due: float) -> None:
            self.begun += 1
            await self.answered.wait()

        return send

    def connect(self) -> Connection:
        self.connections.append(Connection(1))
        return self.connections[-1]

    def drop(self) -> None:
        self.not_sent += 1

    async def during(self, dues_s: Iterator[float]) -> None:
        loop = asyncio.create_task(open_loop(self.connect, dues_s, self.next_send, self.drop))
        await asyncio.sleep(0.05)
        self.answered.set()
        await loop


def test_requests_are_sent_though_none_was_answered() -> None:
    async def run() -> Slow:
        slow = Slow()
        await slow.during(iter([0.0, 0.001, 0.002]))
        return slow

    slow = asyncio.run(run())
    assert (slow.begun, slow.not_sent, len(slow.connections)) == (3, 0, 3)


def test_a_request_that_finds_no_free_connection_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CONNECTIONS", 2)

    async def run() -> Slow:
        slow = Slow()
        await slow.during(iter([0.0, 0.001, 0.002]))
        return slow

    slow = asyncio.run(run())
    assert (slow.begun, slow.not_sent) == (2, 1)


def test_a_free_connection_is_used_again_and_the_loop_ends_when_nothing_is_left() -> None:
    made, sent = list[Connection](), list[float]()

    async def send(connection: Connection, due: float) -> None:
        sent.append(due)

    def connect() -> Connection:
        made.append(Connection(1))
        return made[-1]

    left = [send, send]
    asyncio.run(open_loop(connect, iter([0.0, 0.02, 0.04, 0.06]), lambda: left.pop() if left else None, lambda: None))
    assert (len(made), len(sent)) == (1, 2)
