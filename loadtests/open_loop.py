"""The open loop: requests are sent when they are due, whether earlier ones were answered or not.

A closed loop (each user waits for an answer) hides overload, because slow answers slow the users down too.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

from loadtests.connection import Connection

MOST_CONNECTIONS = 1024  # a request that finds none free is not sent

Send = Callable[[Connection, float], Awaitable[None]]  # sends one request that was due at a time of time.perf_counter


def poisson(phases: Sequence[tuple[float, float]], rng: random.Random) -> Iterator[float]:
    """The times of a Poisson process, in seconds from the start. A phase is its length in seconds and its rate per second."""
    begins = 0.0
    for seconds, rate in phases:
        due = begins
        while (due := due + rng.expovariate(rate)) < begins + seconds:
            yield due
        begins += seconds


async def open_loop(
    connect: Callable[[], Connection], dues_s: Iterator[float], next_send: Callable[[], Send | None], not_sent: Callable[[], None]
) -> float:
    """Send requests when they are due, over any free connection. Ends when no time is left, or `next_send` has none.

    Calls `not_sent` for a request that found no free connection. Returns the seconds until the last request was due; all
    answers have come by then or later.
    """
    now, idle, num_waiting = time.perf_counter, list[Connection](), 0  # uvloop's clock has a resolution of a millisecond
    started = now()

    async def over_a_connection(send: Send, due: float) -> None:
        nonlocal num_waiting
        connection = idle.pop() if idle else connect()
        await send(connection, due)
        idle.append(connection)
        num_waiting -= 1

    async with asyncio.TaskGroup() as tasks:
        for due_s in dues_s:
            await asyncio.sleep(max(started + due_s - now(), 0))
            if num_waiting >= MOST_CONNECTIONS:
                not_sent()
            elif (send := next_send()) is None:
                break
            else:
                num_waiting += 1
                tasks.create_task(over_a_connection(send, started + due_s))
        seconds = now() - started
    for connection in idle:
        connection.close()
    return seconds
