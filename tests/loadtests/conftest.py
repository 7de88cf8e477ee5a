"""A shop's server that answers as it is told, on loopback, and histories to replay against it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from loadtests.traffic import NUM_RESULTS, History

Json = dict[str, Any]
Answering = Callable[[str, Json], tuple[int, Json]]
ITEMS = [{"item_id": f"item-{number}", "score": -float(number)} for number in range(NUM_RESULTS)]


def well(path: str, body: Json) -> tuple[int, Json]:
    """As a server does that has nothing else to do."""
    return (202, {"accepted": len(body["events"])}) if path == "/v1/events" else (200, {"items": ITEMS, "release": "r"})


class ScriptedServer:
    """Answers each request as `answering` says; remembers what it was asked. Status 0 hangs up."""

    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.asked: list[tuple[str, Json]] = []
        self.num_connections = 0
        self._open: list[tuple[asyncio.StreamWriter, asyncio.Task[None] | None]] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """The port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        yield server.sockets[0].getsockname()[1]
        server.close()
        for writer, _ in self._open:
            writer.close()
        await asyncio.gather(*(task for _, task in self._open if task))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        self._open.append((writer, asyncio.current_task()))
        while head := await reader.readline():
            path, length = head.split()[1].decode(), 0
            while (line := await reader.readline()).strip():
                length = int(line.split()[1]) if line.lower().startswith(b"content-length:") else length
            body = msgspec.json.decode(await reader.readexactly(length))
            self.asked.append((path, body))
            status, answer = self.answering(path, body)
            if not status:
                break
            content = msgspec.json.encode(answer)
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
        writer.close()


@pytest.fixture
def households() -> list[History]:
    events = tuple(
        {"item_id": f"item-{number % 7}", "event_type": "purchase", "timestamp": 1_700_000_000_000 + number, "properties": {}}
        for number in range(60)
    )
    return [History("one", events), History("two", events)]
