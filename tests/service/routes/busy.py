"""An engine that is kept busy by a test."""

import asyncio
import threading
import time
from typing import Any

from tests.service.conftest import Client


async def keep_busy(client: Client, gate: threading.Event) -> Any:
    """Keep the engine busy until the gate opens; returns, once it is, the task that ends then."""
    running = threading.Event()

    def block() -> bool:
        running.set()
        return gate.wait()

    task = asyncio.ensure_future(client.context.calls.alone(block, time.monotonic() + 30))
    await asyncio.to_thread(running.wait)
    return task
