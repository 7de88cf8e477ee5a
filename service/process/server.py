"""One server process: uvicorn with an end that loses no request, and one that comes when the engine is lost."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn

from service.api.errors import ApiError
from service.process.supervisor import Promise
from service.routes.context import Service

LEAVING = "this server is about to end; ask another"
_TICK_S = 0.1  # uvicorn's
_TICKS_TO_BE_SURE = 10  # after a pause of the process its engine looks stuck until it has moved again


class Server(uvicorn.Server):
    """Serves until it is told to leave or has lost its engine; `promise` and `say_ready` are told how it goes."""

    def __init__(self, config: uvicorn.Config, service: Service, promise: Promise, say_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.service, self.promise, self.say_ready = service, promise, say_ready
        self.engine_lost = False
        self._ticks_in_trouble = 0

    async def main_loop(self) -> None:
        """Serve; once told to leave, go on for `drain_s` for those who have not noticed, on connections that then close."""
        self.say_ready()
        await super().main_loop()
        settings = self.service.settings
        for tick in range(round(settings.drain_s / _TICK_S)):
            if self.engine_lost or self.force_exit:
                break
            await self.on_tick(tick)
            await asyncio.sleep(_TICK_S)
        self.promise(settings.shutdown_timeout_s + settings.heartbeat_limit_s)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to leave."""
        limit_s = self.service.settings.heartbeat_limit_s
        self.promise(limit_s)
        trouble = self.service.engine.trouble(limit_s)
        self._ticks_in_trouble = self._ticks_in_trouble + 1 if trouble else 0
        if trouble and self._ticks_in_trouble == _TICKS_TO_BE_SURE:
            self._lose_engine(trouble)
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal: no longer ready from this moment on."""
        self._leave(LEAVING)
        super().handle_exit(sig, frame)

    def _leave(self, why: str) -> None:
        """Every answer from now on says that it is the last of its connection."""
        if self.service.leaving is None:
            farewell = (b"connection", b"close")
            self.config.encoded_headers.append(farewell)  # what uvicorn makes the next headers of, once a second
            self.server_state.default_headers = [*self.server_state.default_headers, farewell]
        self.service.leaving = why

    def _lose_engine(self, trouble: str) -> None:
        """Answer who waits, and leave: a new process has a new engine."""
        self._leave(trouble)
        self.service.engine.abandon(ApiError("not_ready", f"{trouble}; ask again"))
        self.engine_lost = self.should_exit = True
        with suppress(OSError):  # a full disk or a closed pipe
            sys.stderr.write(f"twotower: {trouble}; this process ends\n")
