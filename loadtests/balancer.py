"""A small balancer: gives each request to the next server that is ready, as balancers in front of several servers do.

It looks at /readyz of each server ten times a second. For tests and benchmarks on one machine; use a real one otherwise.
"""

import asyncio
import contextlib
import http
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from loadtests.connection import HOST, Connection

LOOK_S, LOOK_TIMEOUT_S = 0.1, 1.0
KEEP = 16  # idle connections to each server that are kept


@dataclass(slots=True)
class Balancer:
    """The servers, and which of them are ready."""

    ports: list[int]
    ready: list[int] = field(default_factory=list, init=False)  # the next to be asked is the first
    idle: dict[int, list[Connection]] = field(default_factory=dict, init=False)
    clients: set[asyncio.Task[None]] = field(default_factory=set, init=False)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """Accept requests until the block ends. Yields the port, once a server is ready."""
        looking = asyncio.create_task(self._look_on())
        server = await asyncio.start_server(self._accept, HOST, 0)
        try:
            while not self.ready:
                await asyncio.sleep(LOOK_S)
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in (looking, *self.clients):
                task.cancel()
            await asyncio.gather(looking, *self.clients, return_exceptions=True)
            for connections in self.idle.values():
                for connection in connections:
                    connection.close()

    async def _look_on(self) -> None:
        while True:
            for port in self.ports:
                is_ready = await answers(port)
                if is_ready and port not in self.ready:
                    self.ready.append(port)
                elif not is_ready and port in self.ready:
                    self.ready.remove(port)
            await asyncio.sleep(LOOK_S)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.clients.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            writer.close()
            self.clients.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            path, length = line.split()[1].decode(), 0
            while (header := await reader.readline()).strip():
                name, _, value = header.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            status, body = await self._pass_on(path, await reader.readexactly(length))
            head = f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()

    async def _pass_on(self, path: str, body: bytes) -> tuple[int, bytes]:
        """The answer of the next server: 503 when none is ready, 502 when it hangs up."""
        if not self.ready:
            return 503, b""
        port = self.ready.pop(0)
        self.ready.append(port)
        kept = self.idle.setdefault(port, [])
        connection = kept.pop() if kept else Connection(port)
        try:
            reply = await connection.post(path, body)
        except OSError:
            return 502, b""
        if len(kept) < KEEP:
            kept.append(connection)
        else:
            connection.close()
        return (reply.status, reply.body) if reply.status else (502, b"")


async def answers(port: int) -> bool:
    """Whether /readyz on the port answers 200 in time."""
    try:
        async with asyncio.timeout(LOOK_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(f"GET /readyz HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
                line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return b" 200 " in line
