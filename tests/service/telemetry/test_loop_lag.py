import asyncio
import time
from contextlib import suppress

from service.telemetry.loop_lag import measure_lag


class Noted(list[float]):
    def observe(self, amount: float) -> None:
        self.append(amount)


def test_a_call_that_blocks_the_event_loop_is_seen_as_lag() -> None:
    async def run() -> Noted:
        noted = Noted()
        task = asyncio.create_task(measure_lag(noted))
        await asyncio.sleep(0.02)
        time.sleep(0.4)  # what a handler must never do
        await asyncio.sleep(0.05)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return noted

    assert 0.25 < max(asyncio.run(run())) < 1.0
