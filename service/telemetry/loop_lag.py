"""How late the event loop is: when something blocks it, every request waits for that."""

import asyncio
from typing import NoReturn

from service.telemetry.metrics import Observer

_TICK_S = 0.1


async def measure_lag(lag: Observer) -> NoReturn:
    """Sleep again and again, and observe by how many seconds the loop woke too late. Runs until it is cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + _TICK_S
        await asyncio.sleep(_TICK_S)
        lag.observe(max(loop.time() - due_s, 0.0))
