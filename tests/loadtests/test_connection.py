import asyncio

from loadtests.connection import LOST, Connection
from tests.loadtests.conftest import Json, ScriptedServer


def test_one_connection_carries_one_request_after_the_other() -> None:
    async def run() -> None:
        server = ScriptedServer(lambda path, body: (200, {"path": path} | body))
        async with server.listening() as port:
            connection = Connection(port)
            replies = [await connection.post("/v1/echo", b'{"n": %d}' % n) for n in range(3)]
            connection.close()
        assert [reply.body for reply in replies] == [b'{"path":"/v1/echo","n":%d}' % n for n in range(3)]
        assert server.num_connections == 1

    asyncio.run(run())


def test_a_lost_connection_is_told_and_opened_again() -> None:
    def hang_up_first(path: str, body: Json) -> tuple[int, Json]:
        return (0 if body["n"] == 0 else 200), {}

    async def run() -> None:
        server = ScriptedServer(hang_up_first)
        async with server.listening() as port:
            connection = Connection(port)
            assert (await connection.post("/", b'{"n": 0}')).status == LOST
            assert (await connection.post("/", b'{"n": 1}')).status == 200
            connection.close()
        assert server.num_connections == 2

    asyncio.run(run())
