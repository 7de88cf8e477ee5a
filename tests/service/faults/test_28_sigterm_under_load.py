"""Row 28: SIGTERM under load: not ready at once, and not one request is lost while two servers are replaced in turn."""

import asyncio
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import httpx

from tests.service.faults.processes import Running, load, serving, status_of, until

DRAIN_S = 1.0


class Balancer(httpx.AsyncBaseTransport):
    """Sends each request to the next server whose /readyz answered 200, over connections that are kept."""

    def __init__(self, ports: list[int]) -> None:
        self.ports, self.ready = ports, list[int]()
        self.wire = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.ready.append(self.ready.pop(0))
        request.url = request.url.copy_with(port=self.ready[-1])
        return await self.wire.handle_async_request(request)

    async def probe(self) -> None:
        while True:
            for port in self.ports:
                is_ready = await asyncio.to_thread(status_of, f"http://127.0.0.1:{port}/readyz") == 200
                if is_ready != (port in self.ready):
                    (self.ready.append if is_ready else self.ready.remove)(port)
            await asyncio.sleep(0.1)

    async def __aenter__(self) -> "Balancer":
        self.probing = asyncio.create_task(self.probe())
        while not self.ready:
            await asyncio.sleep(0.02)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.probing.cancel()
        await self.wire.aclose()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_two_servers_leave_in_turn_a_third_comes_and_no_request_is_lost(tiny_store: Path, tmp_path: Path) -> None:
    ports = [free_port() for _ in range(3)]

    async def run() -> None:
        with ExitStack() as running:

            def start(port: int) -> Running:
                return running.enter_context(serving(tiny_store, tmp_path / "h.db", "--port", str(port), drain_s=DRAIN_S))

            first, second = await asyncio.gather(*(asyncio.to_thread(start, port) for port in ports[:2]))
            async with Balancer(ports) as balancer, load("http://127.0.0.1", transport=balancer) as clients:
                await asyncio.sleep(0.5)
                ended = asyncio.to_thread(first.end, signal.SIGTERM)
                assert (await asyncio.gather(ended, asyncio.to_thread(start, ports[2])))[0] == 0
                while ports[2] not in balancer.ready:
                    await asyncio.sleep(0.1)
                assert await asyncio.to_thread(second.end, signal.SIGTERM) == 0
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
        until(lambda: status_of(server.address + "/readyz") == 503, DRAIN_S)
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
