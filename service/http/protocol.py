"""uvicorn's HTTP protocol with a limit for slow clients, and a short way for the hot routes: from bytes to bytes, in one task.

For each request of an ASGI application, uvicorn makes some ten objects and calls, which cost more than the rest of the answer.
"""

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.http.front import Answer
from service.http.messages import RawHeaders

_CLOSE = (b"connection", b"close")


class Hot(Protocol):
    """Answers whole requests."""

    @property
    def hot(self) -> Collection[bytes]:
        """Paths whose POST requests it answers."""

    def answer(self, path: bytes, raw_headers: RawHeaders, body: bytes) -> Answer | Coroutine[Any, Any, Answer]:
        """The answer, now or later. It raises nothing."""


class _Never:
    """Stands in for the event that tells an application of new parts of a body: nobody waits for it."""

    def set(self) -> None:
        """Tell nobody."""


class HotCycle:
    """A request on the short way, as uvicorn's protocol sees it: as one that an application is answering."""

    __slots__ = ("disconnected", "keep_alive", "response_complete")
    message_event = _Never()

    def __init__(self) -> None:
        self.disconnected, self.keep_alive, self.response_complete = False, True, False


class PatientProtocol(HttpToolsProtocol):
    """Closes the connection of a client that takes too long to send the head of a request, or to read what we write.

    uvicorn itself would wait for both without end. Bodies have a time limit of their own (service.http.messages), whose refusal
    is a proper 408 response.
    """

    # Set in the subclass that `protocol` makes.
    patience_s: float
    hot: Hot | None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._is_held, self._held_body, self._was_answered = False, b"", False

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
        self._was_answered = False
        super().data_received(data)
        if self._is_held:
            self._let_in()
        if self._was_answered or (self.cycle and not self.cycle.response_complete):
            self._stop_head_timer()
        elif self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.patience_s, self.transport.abort)

    def on_headers_complete(self) -> None:
        """Keep a request of a hot route from uvicorn, if its body comes with the same bytes and it has its turn now."""
        self._is_held = self.hot is not None and self.url in self.hot.hot and self._may_be_held()
        if not self._is_held:
            super().on_headers_complete()

    def _may_be_held(self) -> bool:
        parser, is_free = self.parser, self.cycle is None or self.cycle.response_complete
        is_usual = parser.get_method() == b"POST" and parser.should_keep_alive() and not parser.should_upgrade()
        return is_free and is_usual and not self.flow.write_paused and parser.get_http_version() == "1.1"

    def on_body(self, body: bytes) -> None:
        """Keep the body of a held request; pass any other body on to uvicorn."""
        if self._is_held:
            self._held_body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Answer a held request."""
        if not self._is_held:
            super().on_message_complete()
            return
        assert self.hot, "a request is held only for it"
        body, self._is_held, self._held_body, self._was_answered = self._held_body, False, b"", True
        self.cycle = cycle = HotCycle()  # type: ignore[assignment] # all that uvicorn looks at
        answer = self.hot.answer(self.url, self.headers, body)
        if isinstance(answer, Answer):
            self._reply(cycle, answer)
        else:
            task = self.loop.create_task(self._reply_later(cycle, answer))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def _let_in(self) -> None:
        body, self._is_held, self._held_body = self._held_body, False, b""
        super().on_headers_complete()
        if body:
            super().on_body(body)

    async def _reply_later(self, cycle: HotCycle, answering: Coroutine[Any, Any, Answer]) -> None:
        answer = await answering
        if self.flow.write_paused and not cycle.disconnected:
            await self.flow.drain()
        self._reply(cycle, answer)

    def _reply(self, cycle: HotCycle, answer: Answer) -> None:
        cycle.response_complete = True
        if cycle.disconnected or self.transport.is_closing():
            return
        defaults = self.server_state.default_headers
        is_last = not cycle.keep_alive or _CLOSE in answer.headers or _CLOSE in defaults
        farewell = [_CLOSE] if is_last and _CLOSE not in answer.headers and _CLOSE not in defaults else []
        lines = [b"%b: %b\r\n" % header for header in (*defaults, *answer.headers, *farewell)]
        self.transport.write(b"".join([STATUS_LINE[answer.status], *lines, b"\r\n", answer.body]))
        if is_last:
            self.transport.close()
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


def protocol(patience_s: float, hot: Hot | None = None) -> type[asyncio.Protocol]:
    """The protocol class for uvicorn, with this time limit for slow clients and this short way for the hot routes."""
    return type("Protocol", (PatientProtocol,), {"patience_s": patience_s, "hot": hot})
