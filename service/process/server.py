"""One server process: uvicorn with a shutdown that loses no requests, and that also ends when the engine is lost."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn

from service.api.errors import ApiError
from service.process.readiness import Readiness
from service.process.supervisor import Promise

LEAVING = "this server is shutting down; send the request to another one"
_TICK_S = 0.1  # how often uvicorn calls on_tick
_TICKS_TO_BE_SURE = 10  # after the process was paused, its engine looks stuck for a moment, until it has moved again


class Server(uvicorn.Server):
    """Serves until a signal ends it or its engine is lost.

    It calls `say_ready` once it serves, and `promise` again and again to show the supervisor that it is alive.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        readiness: Readiness,
        promise: Promise,
        say_ready: Callable[[], None],
        *,
        drain_s: float,
        shutdown_timeout_s: float,
    ) -> None:
        super().__init__(config)
        self.readiness, self.promise, self.say_ready = readiness, promise, say_ready
        self.drain_s, self.shutdown_timeout_s = drain_s, shutdown_timeout_s
        self.engine_lost = False
        self._ticks_in_trouble = 0

    async def main_loop(self) -> None:
        """Serve until told to leave. Then serve for `drain_s` more, for clients that have not noticed, and close connections."""
        self.say_ready()
        await super().main_loop()
        for tick in range(round(self.drain_s / _TICK_S)):
            if self.engine_lost or self.force_exit:
                break
            await self.on_tick(tick)
            await asyncio.sleep(_TICK_S)
        self.promise(self.shutdown_timeout_s + self.readiness.heartbeat_limit_s)

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; whether to stop serving."""
        self.promise(self.readiness.heartbeat_limit_s)
        trouble = self.readiness.trouble()
        self._ticks_in_trouble = self._ticks_in_trouble + 1 if trouble else 0
        if trouble and self._ticks_in_trouble == _TICKS_TO_BE_SURE:
            self._lose_engine(trouble)
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGTERM or SIGINT: from now on this process is not ready."""
        self._leave(LEAVING)
        super().handle_exit(sig, frame)

    def _leave(self, why: str) -> None:
        """Mark the process as not ready. Every answer from now on closes its connection."""
        if self.readiness.leaving is None:
            farewell = (b"connection", b"close")
            self.config.encoded_headers.append(farewell)  # uvicorn makes new default headers from these once a second
            self.server_state.default_headers = [*self.server_state.default_headers, farewell]
        self.readiness.leaving = why

    def _lose_engine(self, trouble: str) -> None:
        """Refuse all waiting requests and end this process, so that a new process can start with a new engine."""
        self._leave(trouble)
        self.readiness.engine.abandon(ApiError("not_ready", f"{trouble}; send the request again"))
        self.engine_lost = self.should_exit = True
        with suppress(OSError):  # a full disk or a closed pipe
            sys.stderr.write(f"twotower: {trouble}; this process ends\n")
