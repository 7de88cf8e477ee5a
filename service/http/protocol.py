"""uvicorn's HTTP protocol with a limit for slow clients, and early refusals when the server is full."""

import asyncio
from collections.abc import Collection
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.http.front import DECODED, Decoded, Refusal
from service.http.messages import RawHeaders


class EarlyRefusal(Protocol):
    """Decides, while the server is busy, whether a request is refused before uvicorn starts to handle it."""

    def is_busy(self) -> bool:
        """Whether a request that arrives now might be refused."""

    @property
    def refusable(self) -> Collection[bytes]:
        """Paths whose POST requests may be refused early."""

    def early(self, path: bytes, raw_headers: RawHeaders, body: bytes) -> Refusal | Decoded:
        """A refusal, or the decoded body of a request that is to be served."""


class PatientProtocol(HttpToolsProtocol):
    """Closes the connection of a client that takes too long to send the head of a request, or to read what we write.

    uvicorn itself would wait for both without end. Bodies have a time limit of their own (service.http.messages), whose refusal
    is a proper 408 response.
    """

    # Set in the subclass that `protocol` makes.
    patience_s: float
    early_refusal: EarlyRefusal | None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._is_held, self._held_body, self._has_refused = False, b"", False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's signature
        """Start the timer for the head of the first request."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self.patience_s, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._stop_head_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass the bytes to the parser. A timer starts only if a head is incomplete, and it counts from the head's first byte."""
        self._has_refused = False
        super().data_received(data)
        if self._is_held:
            self._let_in()
        if self._has_refused or (self.cycle and not self.cycle.response_complete):
            self._stop_head_timer()
        elif self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.patience_s, self.transport.abort)

    def on_headers_complete(self) -> None:
        """Keep a request that may be refused from uvicorn until its body is complete, if the body comes with the same bytes."""
        early = self.early_refusal
        self._is_held = early is not None and self.url in early.refusable and self._may_be_held() and early.is_busy()
        if not self._is_held:
            super().on_headers_complete()

    def _may_be_held(self) -> bool:
        parser, is_free = self.parser, self.cycle is None or self.cycle.response_complete
        is_usual = parser.get_method() == b"POST" and parser.should_keep_alive() and not parser.should_upgrade()
        return is_free and is_usual and not self.flow.write_paused

    def on_body(self, body: bytes) -> None:
        """Keep the body of a held request; pass any other body on to uvicorn."""
        if self._is_held:
            self._held_body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Refuse a held request, or hand it to uvicorn."""
        if self._is_held:
            assert self.early_refusal, "a request is held only for it"
            verdict = self.early_refusal.early(self.url, self.headers, self._held_body)
            if isinstance(verdict, Refusal):
                self._refuse(verdict)
                return
            self._let_in()
            self.scope["state"][DECODED] = verdict.request
        super().on_message_complete()

    def _let_in(self) -> None:
        body, self._is_held, self._held_body = self._held_body, False, b""
        super().on_headers_complete()
        if body:
            super().on_body(body)

    def _refuse(self, refusal: Refusal) -> None:
        self._is_held, self._held_body, self._has_refused = False, b"", True
        lines = [b"%b: %b\r\n" % header for header in (*self.server_state.default_headers, *refusal.headers)]
        self.transport.write(b"".join([STATUS_LINE[refusal.status], *lines, b"\r\n", refusal.body]))
        self.on_response_complete()

    def pause_writing(self) -> None:
        """Start the timer for a client that does not read what was written."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.patience_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop that timer, because the client reads again."""
        if self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; abort it if the client has not read the last answer, because a close would wait for that."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def _stop_head_timer(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None


def protocol(patience_s: float, early_refusal: EarlyRefusal | None = None) -> type[asyncio.Protocol]:
    """The protocol class for uvicorn, with this time limit for slow clients and these early refusals."""
    return type("Protocol", (PatientProtocol,), {"patience_s": patience_s, "early_refusal": early_refusal})
