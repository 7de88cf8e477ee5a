"""uvicorn's HTTP protocol, and a limit for clients that take their time."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class PatientProtocol(HttpToolsProtocol):
    """Hangs up on a client that is too slow in sending the head of a request, or in taking what is written to it.

    uvicorn waits for both without end. A body has a limit of its own (service.wire), which can still answer 408.
    """

    patience_s: float  # of the subclass that `protocol` makes

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Wait for the first head."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self.patience_s, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody to wait for."""
        self._stop_head_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A head that came whole, as nearly all do, sets no timer; one that trickles has the time from its first byte."""
        super().data_received(data)
        if self.cycle and not self.cycle.response_complete:
            self._stop_head_timer()
        elif self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.patience_s, self.transport.abort)

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.patience_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        if self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Between requests: to close would wait for a client that has not even read the last answer."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def _stop_head_timer(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None


def protocol(patience_s: float) -> type[asyncio.Protocol]:
    """The protocol with a limit."""
    return type("Protocol", (PatientProtocol,), {"patience_s": patience_s})
