"""Row 26: at ten times what can be done, nearly all that can be done is done, and the rest is told so at once.

The work is a sleep, so that the capacity is known; requests come by the clock and not when an answer has come (open loop).
"""

import asyncio
import random
import time
from collections.abc import Sequence

import pytest

from service.api.errors import ApiError
from service.engine.thread import Batched, Engine, Limits

SECONDS, EACH_S, FACTOR = 2.0, 0.01, 10


@pytest.mark.alone
def test_overload_keeps_the_engine_busy_and_refuses_the_rest_quickly() -> None:
    engine, random_ = Engine(1, Limits(batch_requests=8, max_wait_s=0.2)), random.Random(0)

    def sleep(of: None, costs: Sequence[int]) -> Sequence[int]:
        time.sleep(EACH_S * len(costs))
        return costs

    answered, refused, waits = [], [], []

    async def ask() -> None:
        started = time.monotonic()
        try:
            with engine.take_place(1, started + 0.5) as place:
                await engine.submit_to(Batched(sleep, None), 1, place)
        except ApiError as error:
            refused.append((error.code, time.monotonic() - started))
        else:
            answered.append(time.monotonic())
            waits.append(time.monotonic() - started)

    async def run() -> tuple[float, float]:
        engine.start()
        tasks = []
        started = time.monotonic()
        due = started
        while due < started + SECONDS:
            await asyncio.sleep(max(due - time.monotonic(), 0))
            tasks.append(asyncio.create_task(ask()))
            due += random_.expovariate(FACTOR / EACH_S)
        await asyncio.gather(*tasks)
        stopped = time.monotonic()
        await asyncio.to_thread(engine.close)
        return started, stopped

    started, stopped = asyncio.run(run())
    possible = (stopped - started) / EACH_S
    assert len(answered) >= 0.85 * possible
    assert len(refused) > 5 * len(answered)
    assert max(waits) < 0.5
    assert {code for code, _ in refused} == {"overloaded"}
    assert sorted(seconds for _, seconds in refused)[len(refused) // 2] < 0.005
