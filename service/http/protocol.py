"""uvicorn's HTTP protocol, with a limit for clients that take their time, and a door where a full server refuses cheaply."""

import asyncio
from collections.abc import Collection
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol


class Door(Protocol):
    """What is asked, while the server is busy, about requests that came whole."""

    def is_busy(self) -> bool:
        """Whether it is worth asking."""

    @property
    def glanced_at(self) -> Collection[bytes]:
        """Paths of the requests, all POST."""

    def at_once(self, path: bytes, raw_headers: list[tuple[bytes, bytes]], body: bytes) -> Any:
        """Status, headers and body of a refusal, or None."""


class PatientProtocol(HttpToolsProtocol):
    """Hangs up on a client that is too slow in sending the head of a request, or in taking what is written to it.

    uvicorn waits for both without end. A body has a limit of its own (service.http.messages), which can still answer 408.
    """

    patience_s: float  # of the subclass that `protocol` makes, as the next
    door: Door | None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._is_held, self._held_body, self._has_refused = False, b"", False

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
        self._has_refused = False
        super().data_received(data)
        if self._is_held:
            self._let_in()
        if self._has_refused or (self.cycle and not self.cycle.response_complete):
            self._stop_head_timer()
        elif self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.patience_s, self.transport.abort)

    def on_headers_complete(self) -> None:
        """Hold a request that may be refused until its body is there, if that comes at once too: uvicorn does not know of it."""
        self._is_held = self.door is not None and self.url in self.door.glanced_at and self._may_be_held() and self.door.is_busy()
        if not self._is_held:
            super().on_headers_complete()

    def _may_be_held(self) -> bool:
        parser, is_free = self.parser, self.cycle is None or self.cycle.response_complete
        is_usual = parser.get_method() == b"POST" and parser.should_keep_alive() and not parser.should_upgrade()
        return is_free and is_usual and not self.flow.write_paused

    def on_body(self, body: bytes) -> None:
        """As it comes."""
        if self._is_held:
            self._held_body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Refuse what is held, or let it in."""
        if self._is_held:
            assert self.door, "it holds"
            refusal = self.door.at_once(self.url, self.headers, self._held_body)
            if refusal:
                self._refuse(*refusal)
                return
            self._let_in()
        super().on_message_complete()

    def _let_in(self) -> None:
        body, self._is_held, self._held_body = self._held_body, False, b""
        super().on_headers_complete()
        if body:
            super().on_body(body)

    def _refuse(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self._is_held, self._held_body, self._has_refused = False, b"", True
        lines = [b"%b: %b\r\n" % header for header in (*self.server_state.default_headers, *headers)]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))
        self.on_response_complete()

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


def protocol(patience_s: float, door: Door | None = None) -> type[asyncio.Protocol]:
    """The protocol with a limit and a door."""
    return type("Protocol", (PatientProtocol,), {"patience_s": patience_s, "door": door})
