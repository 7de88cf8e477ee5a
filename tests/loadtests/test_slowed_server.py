import asyncio
import time
from collections.abc import Sequence

from loadtests.slowed_server import SlowedEngine
from service.engine.thread import Batched, Limits


def test_each_batch_is_late_and_batches_are_still_formed() -> None:
    engine = SlowedEngine(1, Limits(batch_requests=8))
    batches: list[int] = []

    def work(of: None, arguments: Sequence[int]) -> Sequence[int]:
        batches.append(len(arguments))
        return arguments

    async def ask(number: int) -> int:
        with engine.take_place(1, time.monotonic() + 5) as place:
            return int(await engine.submit_to(Batched(work, None), number, place))

    async def run() -> tuple[list[int], float]:
        engine.start()
        started = time.monotonic()
        answers = await asyncio.gather(*map(ask, range(8)))
        seconds = time.monotonic() - started
        await asyncio.to_thread(engine.close)
        return answers, seconds

    SlowedEngine.sleep_s = 0.05
    try:
        answers, seconds = asyncio.run(run())
    finally:
        SlowedEngine.sleep_s = 0.0
        SlowedEngine.slowed.clear()
    assert answers == list(range(8))
    assert 0.05 * len(batches) <= seconds
    assert len(batches) < 8
