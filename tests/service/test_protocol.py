"""A real server on loopback, in this process; the faults of slow clients are in faults/."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from service.command import listen
from service.protocol import protocol

REQUEST = b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n"


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(0.3)  # longer than the client may take, for this is the server's time
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def served(call: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]]) -> bytes:
    """What `call` gets from a server whose clients have 0.2 s."""

    async def run() -> bytes:
        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        config = uvicorn.Config(answer, http=protocol(0.2), ws="none", lifespan="off", log_config=None, access_log=False)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server._serve([listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            return await asyncio.wait_for(call(reader, writer), 5)
        finally:
            writer.close()
            server.should_exit = True
            await task

    return asyncio.run(run())


def test_a_whole_request_is_answered_however_long_that_takes_and_so_is_the_next() -> None:
    async def call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        for _ in range(2):
            writer.write(REQUEST)
            assert b"200" in await reader.readuntil(b"ok")
            await asyncio.sleep(0.3)  # between requests uvicorn's own limit counts
        return b"ok"

    assert served(call) == b"ok"


@pytest.mark.parametrize("sent", [b"", REQUEST[:10]])
def test_a_client_that_never_sends_a_whole_head_is_hung_up_on(sent: bytes) -> None:
    async def call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(sent)
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""

    assert served(call) == b""
