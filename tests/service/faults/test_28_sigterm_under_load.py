"""Row 28: SIGTERM under load: not ready at once, and not one request is lost while two servers are replaced in turn."""

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx

from tests.service.faults.processes import Running, load, serving, status_of, until

DRAIN_S = 1.0


@asynccontextmanager
async def balancer(ports: list[int]) -> AsyncIterator[str]:
    """Hands each connection to the next server whose /readyz answers 200, and knows nothing of HTTP beyond that."""
    ready: list[int] = []
    connections: list[asyncio.Task[None]] = []

    async def probe() -> None:
        async with httpx.AsyncClient(timeout=1.0) as http:
            while True:
                for port in ports:
                    try:
                        is_ready = (await http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
                    except httpx.TransportError:
                        is_ready = False
                    if is_ready != (port in ready):
                        (ready.append if is_ready else ready.remove)(port)
                await asyncio.sleep(0.1)

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        with suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            connections.append(task)
        ready.append(ready.pop(0))
        theirs, to_server = await asyncio.open_connection("127.0.0.1", ready[-1])
        await asyncio.gather(copy(reader, to_server), copy(theirs, writer))

    probing = asyncio.create_task(probe())
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        while not ready:
            await asyncio.sleep(0.02)
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    probing.cancel()
    await asyncio.gather(probing, *connections, return_exceptions=True)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_two_servers_are_replaced_in_turn_and_no_request_is_lost(tiny_store: Path, tmp_path: Path) -> None:
    ports = [free_port(), free_port()]

    async def run() -> None:
        with ExitStack() as running:

            def start(port: int) -> Running:
                return running.enter_context(serving(tiny_store, tmp_path / "h.db", "--port", str(port), drain_s=DRAIN_S))

            servers = await asyncio.gather(*(asyncio.to_thread(start, port) for port in ports))
            async with balancer(ports) as address, load(address) as clients:
                for port, server in zip(ports, servers, strict=True):
                    await asyncio.sleep(0.5)
                    started = time.monotonic()
                    assert await asyncio.to_thread(server.end, signal.SIGTERM) == 0
                    assert time.monotonic() - started < DRAIN_S + 2
                    await asyncio.to_thread(start, port)
                await asyncio.sleep(0.5)
        assert set(clients.seen) == {200}
        assert clients.seen[200] > 100

    asyncio.run(run())


def test_who_leaves_says_so_goes_on_answering_and_closes_connections_one_by_one(tiny_store: Path, tmp_path: Path) -> None:
    with (
        serving(tiny_store, tmp_path / "h.db", drain_s=DRAIN_S) as server,
        httpx.Client(base_url=server.address) as http,
        httpx.Client(base_url=server.address) as other,
    ):
        for client in (http, other):
            assert "connection" not in client.get("/readyz").headers
        server.process.send_signal(signal.SIGTERM)
        assert until(lambda: status_of(server.address + "/readyz") == 503, 0.5) < 0.5
        assert http.get("/livez").status_code == 200
        answer = other.post("/v1/recommend", json={})
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert server.process.wait(timeout=5) == 0


def test_a_request_that_is_under_way_is_answered_though_nobody_waits_for_the_balancer(tiny_store: Path, tmp_path: Path) -> None:
    with serving(tiny_store, tmp_path / "h.db") as server, socket.create_connection(address_of(server.address)) as client:
        client.sendall(b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{")
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        client.sendall(b"}")
        answer = client.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in answer
        assert server.process.wait(timeout=5) == 0


def address_of(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)
