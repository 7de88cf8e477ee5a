"""A minimal keep-alive HTTP/1.1 connection for the load generator, because time spent here would look like a slow server."""

import asyncio
from typing import NamedTuple, cast

import httptools

HOST = "127.0.0.1"
LOST = 0  # status when the connection ended without an answer


class Reply(NamedTuple):
    """Status and body of a response."""

    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """Sends one request at a time to a port. Connects at the first request, and again after the connection is lost."""

    def __init__(self, port: int, host: str = HOST, key: str = "") -> None:
        """`key` is an API key, or empty for none."""
        self._port, self._host = port, host
        self._headers = f"Host: {host}\r\nContent-Type: application/json\r\n" + (f"X-API-Key: {key}\r\n" if key else "")
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Reply] | None = None
        self._body = b""

    async def post(self, path: str, body: bytes) -> Reply:
        """POST a JSON body. Status LOST when the connection ends without an answer; OSError when nothing listens."""
        loop = asyncio.get_running_loop()
        if self._transport is None or self._transport.is_closing():
            await loop.create_connection(lambda: self, self._host, self._port)
        assert self._transport is not None
        self._waiter = loop.create_future()
        head = f"POST {path} HTTP/1.1\r\n{self._headers}Content-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)
        return await self._waiter

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport, self._body = (
            cast(asyncio.Transport, transport),
            b"",
        )  # uvloop's transport has another base class
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 # asyncio's signature
        """Called by the event loop."""
        self._transport = None
        self._answer(Reply(LOST, b""))

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._body += body

    def on_message_complete(self) -> None:
        """Called by the parser."""
        reply, self._body = Reply(self._parser.get_status_code(), self._body), b""
        self._answer(reply)

    def _answer(self, reply: Reply) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(reply)
