import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from loadtests.balancer import LOOK_S, Balancer
from loadtests.connection import Connection, Reply


class Server:
    """Answers its name to every POST, and whether it is ready to every GET."""

    def __init__(self, name: str) -> None:
        self.name, self.ready, self.asked = name, True, 0
        self.tasks = list[asyncio.Task[None]]()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        yield server.sockets[0].getsockname()[1]
        server.close()
        await asyncio.gather(*self.tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        while line := await reader.readline():
            length = 0
            while (header := await reader.readline()).strip():
                length = int(header.split()[1]) if header.lower().startswith(b"content-length:") else length
            await reader.readexactly(length)
            self.asked += line.startswith(b"POST")
            status, content = (200 if self.ready or line.startswith(b"POST") else 503), msgspec.json.encode(self.name)
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
            if line.startswith(b"GET"):
                break
        writer.close()


def replies(*servers: Server, number: int, leaves: Server | None = None) -> list[Reply]:
    async def run() -> list[Reply]:
        async with AsyncExitStack() as stack:
            ports = [await stack.enter_async_context(server.listening()) for server in servers]
            balancer = Balancer(ports)
            port = await stack.enter_async_context(balancer.listening())
            while len(balancer.ready) < len(servers):
                await asyncio.sleep(LOOK_S)
            if leaves:
                leaves.ready = False
                while len(balancer.ready) == len(servers):
                    await asyncio.sleep(LOOK_S)
            connection = Connection(port)
            got = [await connection.post("/v1/recommend", b"{}") for _ in range(number)]
            connection.close()
            return got

    return asyncio.run(run())


def test_requests_go_to_the_servers_in_turn() -> None:
    first, second = Server("first"), Server("second")
    assert {reply.status for reply in replies(first, second, number=10)} == {200}
    assert (first.asked, second.asked) == (5, 5)


def test_a_server_that_is_not_ready_gets_no_more_requests() -> None:
    first, second = Server("first"), Server("second")
    assert {reply.status for reply in replies(first, second, number=10, leaves=first)} == {200}
    assert (first.asked, second.asked) == (0, 10)


def test_without_a_ready_server_the_answer_is_503() -> None:
    only = Server("only")
    assert [reply.status for reply in replies(only, number=1, leaves=only)] == [503]
