"""A real server on loopback, in this process; the faults of slow clients are in faults/."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from service.command import listen
from service.http.front import DECODED, Decoded, Refusal
from service.http.messages import RawHeaders
from service.http.protocol import EarlyRefusal, protocol

REQUEST = b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n"


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(0.3)  # longer than the client may take, for this is the server's time
    body = b"%b ok" % scope["state"].get(DECODED, "raw").encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


class Full:
    """Refuses all that it sees while it is busy, but for one body."""

    refusable = (b"/hot",)

    def __init__(self, *, busy: bool = True) -> None:
        self.busy, self.seen = busy, list[tuple[bytes, bytes]]()

    def is_busy(self) -> bool:
        return self.busy

    def early(self, path: bytes, raw_headers: RawHeaders, body: bytes) -> Refusal | Decoded:
        self.seen.append((dict(raw_headers)[b"x"], body))
        return Refusal(503, [(b"content-length", b"4")], b"full") if body != b"let me" else Decoded("decoded")


def post(body: bytes, path: bytes = b"/hot", version: bytes = b"1.1") -> bytes:
    return b"POST %b HTTP/%b\r\nhost: shop\r\nX: y\r\ncontent-length: %d\r\n\r\n%b" % (path, version, len(body), body)


def served(
    call: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]], early: EarlyRefusal | None = None
) -> bytes:
    """What `call` gets from a server whose clients have 0.2 s."""

    async def run() -> bytes:
        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        config = uvicorn.Config(answer, http=protocol(0.2, early), ws="none", lifespan="off", log_config=None, access_log=False)
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


def exchange(*sent: bytes, early: EarlyRefusal) -> bytes:
    """What comes back for some pieces, 0.05 s between them, until the last is answered."""

    async def call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        for piece in sent:
            writer.write(piece)
            await asyncio.sleep(0.05)
        received = b""
        while not received.endswith((b"ok", b"full")):
            received += await reader.read(1000)
        return received

    return served(call, early)


def test_a_full_server_refuses_a_whole_request_before_it_is_anybodys_task() -> None:
    early = Full()
    received = exchange(post(b"abc"), early=early)
    assert received.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert received.endswith(b"content-length: 4\r\n\r\nfull")
    assert b"\r\ndate: " in received
    assert early.seen == [(b"y", b"abc")]


@pytest.mark.parametrize("sent", [(post(b"let me"),), (post(b"abc")[:-1], b"c"), (post(b"abc", b"/cold"),)])
def test_what_it_lets_in_what_comes_in_pieces_and_what_it_is_not_asked_about_is_served(sent: tuple[bytes, ...]) -> None:
    assert exchange(*sent, early=Full()).endswith(b"ok")


def test_what_it_lets_in_is_served_as_it_was_decoded_and_all_else_as_it_came() -> None:
    assert exchange(post(b"let me"), early=Full()).endswith(b"\r\n\r\ndecoded ok")
    for sent in ((post(b"abc")[:-1], b"c"), (post(b"abc", b"/cold"),)):
        assert exchange(*sent, early=Full()).endswith(b"\r\n\r\nraw ok")


def test_a_request_after_one_that_was_let_in_does_not_get_its_body() -> None:
    async def call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(post(b"let me"))
        assert b"decoded ok" in await reader.readuntil(b"ok")
        writer.write(post(b"abc", b"/cold"))
        return await reader.readuntil(b"ok")

    assert served(call, Full()).endswith(b"raw ok")


@pytest.mark.parametrize("last", [b"connection: close", b"connection: upgrade\r\nupgrade: h2c", b"expect: 100-continue"])
def test_so_is_what_is_unusual(last: bytes) -> None:
    request = post(b"").replace(b"host: shop", b"host: shop\r\n" + last)
    if last.startswith(b"expect"):
        assert exchange(request, early=Full()).endswith(b"full")  # it would not have sent more
    else:
        assert exchange(request, early=Full()).endswith(b"ok")


def test_so_is_all_when_the_server_is_not_full() -> None:
    early = Full(busy=False)
    assert exchange(post(b"abc"), post(b"abc", version=b"1.0"), early=early).endswith(b"ok")
    assert not early.seen


def test_who_was_refused_may_ask_again_at_leisure() -> None:
    early = Full()

    async def call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        for _ in range(2):
            writer.write(post(b"abc") + post(b"de"))
            for _ in range(2):
                await reader.readuntil(b"full")
            await asyncio.sleep(0.3)
        early.busy = False
        writer.write(post(b"abc"))
        return await reader.readuntil(b"ok")

    assert b"200" in served(call, early)
    assert [body for _, body in early.seen] == [b"abc", b"de"] * 2


def test_a_request_behind_one_that_is_being_answered_waits_for_its_turn() -> None:
    assert exchange(post(b"let me") + post(b"abc"), early=Full()).count(b"HTTP/1.1 200") == 1
