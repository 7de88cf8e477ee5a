"""A real server on loopback, in this process; the faults of slow clients are in faults/.

At the end a whole server: what comes in one piece, on the short way, is answered as what comes in two.
"""

import asyncio
import http.client
import json
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from service.command import listen
from service.http.front import Answer
from service.http.messages import RawHeaders
from service.http.protocol import Hot, protocol
from tests.service.faults.live_server import Live, live
from tests.service.key_files import bearer, entry, write_keys

REQUEST = b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n"


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(0.3)  # longer than the client may take, for this is the server's time
    body = b"raw ok"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


class Full:
    """Refuses all that it sees at once, but for one body, which it answers after a while."""

    hot = (b"/hot",)

    def __init__(self) -> None:
        self.seen, self.let_in = list[tuple[bytes, bytes]](), b"let me"

    def answer(self, path: bytes, raw_headers: RawHeaders, body: bytes) -> Answer | Coroutine[Any, Any, Answer]:
        self.seen.append((dict(raw_headers)[b"x"], body))
        return self._later() if body == self.let_in else Answer(503, [(b"content-length", b"4")], b"full")

    async def _later(self) -> Answer:
        await asyncio.sleep(0.3)
        return Answer(200, [(b"content-length", b"8")], b"short ok")


def post(body: bytes, path: bytes = b"/hot", version: bytes = b"1.1") -> bytes:
    return b"POST %b HTTP/%b\r\nhost: shop\r\nX: y\r\ncontent-length: %d\r\n\r\n%b" % (path, version, len(body), body)


class Closing:
    """The server that runs now, for a test that ends it."""

    server: uvicorn.Server | None = None


def served(call: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]], hot: Hot | None = None) -> bytes:
    """What `call` gets from a server whose clients have 0.2 s."""

    async def run() -> bytes:
        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        config = uvicorn.Config(answer, http=protocol(0.2, hot), ws="none", lifespan="off", log_config=None, access_log=False)
        server = Closing.server = uvicorn.Server(config)
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


def exchange(*sent: bytes, hot: Hot) -> bytes:
    """What comes back for some pieces, 0.05 s between them, until the last is answered."""

    async def call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        for piece in sent:
            writer.write(piece)
            await asyncio.sleep(0.05)
        received = b""
        while not received.endswith((b"ok", b"full")):
            received += await reader.read(1000)
        return received

    return served(call, hot)


def test_a_request_of_a_hot_route_may_be_answered_at_once() -> None:
    hot = Full()
    received = exchange(post(b"abc"), hot=hot)
    assert received.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert received.endswith(b"content-length: 4\r\n\r\nfull")
    assert b"\r\ndate: " in received
    assert hot.seen == [(b"y", b"abc")]


def test_or_later_however_long_that_takes_and_so_is_the_next() -> None:
    async def call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        for _ in range(2):
            writer.write(post(b"let me"))
            assert b"short ok" in await reader.readuntil(b"ok")
            await asyncio.sleep(0.3)
        writer.write(post(b"abc", b"/cold"))
        return await reader.readuntil(b"ok")

    assert served(call, Full()).endswith(b"raw ok")


@pytest.mark.parametrize(
    "sent",
    [
        (post(b"let me")[:-1], b"e"),
        (post(b"let me", b"/cold"),),
        (post(b"let me", b"/hot?x=1"),),
        (post(b"let me", version=b"1.0"),),
        (post(b"let me").replace(b"POST", b"PUT"),),
        (post(b"let me").replace(b"X: y", b"X: y\r\nconnection: close"),),
        (post(b"let me").replace(b"X: y", b"X: y\r\nconnection: upgrade\r\nupgrade: h2c"),),
    ],
)
def test_what_is_unusual_or_comes_in_pieces_goes_the_way_of_all_requests(sent: tuple[bytes, ...]) -> None:
    hot = Full()
    assert exchange(*sent, hot=hot).endswith(b"raw ok")
    assert not hot.seen


def test_a_whole_request_that_would_have_waited_to_be_asked_for_its_body_is_usual() -> None:
    assert exchange(post(b"abc").replace(b"X: y", b"X: y\r\nexpect: 100-continue"), hot=Full()).endswith(b"full")


def test_who_was_refused_may_ask_again_at_leisure() -> None:
    hot = Full()

    async def call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        for _ in range(2):
            writer.write(post(b"abc") + post(b"de"))
            for _ in range(2):
                await reader.readuntil(b"full")
            await asyncio.sleep(0.3)
        hot.let_in = b"abc"
        writer.write(post(b"abc"))
        return await reader.readuntil(b"ok")

    assert b"200" in served(call, hot)
    assert [body for _, body in hot.seen] == [b"abc", b"de", b"abc", b"de", b"abc"]


def test_requests_behind_one_that_is_being_answered_wait_for_their_turn() -> None:
    async def call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(post(b"let me") + post(b"abc") + post(b"let me", b"/cold"))
        await asyncio.sleep(0.05)
        writer.write(post(b"de"))
        received = b""
        while received.count(b" ok") < 4:
            received += await reader.read(1000)
        return received

    received = served(call, Full())
    assert re.findall(rb"(short|raw) ok", received) == [b"short", b"raw", b"raw", b"raw"]


def test_a_server_that_closes_finishes_what_it_answers_and_says_that_it_was_the_last() -> None:
    async def call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(post(b"let me"))
        await asyncio.sleep(0.1)
        closing = Closing.server
        assert closing is not None
        closing.should_exit = True
        return await reader.read()

    received = served(call, Full())
    assert received.count(b"connection: close") == 1
    assert received.endswith(b"short ok")


def test_nothing_is_written_to_a_client_that_left() -> None:
    left = Full()

    async def call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(post(b"let me"))
        await asyncio.sleep(0.1)
        writer.transport.abort()
        await asyncio.sleep(0.4)
        return b"ok"

    assert served(call, left) == b"ok"
    assert left.seen == [(b"y", b"let me")]


ORIGIN = "https://shop.example"
OWN = frozenset({"date", "x-request-id", "content-length"})  # headers whose values differ from answer to answer
VARYING = frozenset({"request_id", "took_ms", "recommendation_id"})
EVENT = {"user_id": "ann", "event_type": "view", "item_id": "i1", "timestamp": 1_700_000_000_000, "event_id": "1"}
QUESTION = {"num_results": 3, "timestamp": 1_700_000_100_000}
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def server(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    directory = tmp_path_factory.mktemp("ways")
    keys = write_keys(directory / "keys.toml", entry("shop", "recommend", "events:write"), entry("poor", "admin"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("KEYS", str(keys)), ("CORS_ORIGINS", ORIGIN), ("MAX_BODY_BYTES", "500")):
            patch.setenv(f"TWOTOWER_{name}", value)
        with live(tiny_store, directory) as running:
            yield running


def asked(server: Live, path: str, body: bytes, headers: dict[str, str], *, in_pieces: bool) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of the answer, without what differs from answer to answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest("POST", path)
    for name, value in ({"content-length": str(len(body))} | headers).items():
        connection.putheader(name, value)
    connection.endheaders(None if in_pieces else body)
    if in_pieces:
        time.sleep(0.05)
        connection.send(body)
    answer = connection.getresponse()
    found = {name.lower(): value for name, value in answer.getheaders()}
    text = json.loads(answer.read())
    connection.close()
    assert found.keys() >= OWN
    told = text.get("error", text)
    return answer.status, {n: v for n, v in found.items() if n not in OWN}, {k: v for k, v in told.items() if k not in VARYING}


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/v1/recommend", QUESTION, JSON, 200),
        ("/recommend", QUESTION | {"user_id": "ann"}, JSON | {"x-request-id": "mine", "origin": ORIGIN}, 200),
        ("/v1/recommend", QUESTION, JSON | {"origin": "https://elsewhere.example"}, 200),
        ("/v1/recommend", {"num_results": 0}, JSON, 422),
        ("/v1/recommend", {"num_results": 0}, JSON | {"origin": ORIGIN}, 422),
        ("/v1/recommend", QUESTION | {"filter": "?"}, JSON, 422),
        ("/v1/recommend", QUESTION, {}, 415),
        ("/v1/recommend", QUESTION, JSON | {"content-encoding": "gzip"}, 415),
        ("/v1/recommend", {"exclude_item_ids": ["i" * 100] * 6}, JSON, 413),
        ("/v1/recommend", {}, JSON | {"authorization": "Bearer nobody.x"}, 401),
        ("/v1/recommend", {}, JSON | bearer("poor"), 403),
        ("/v1/events", {"events": [EVENT]}, JSON, 202),
        ("/events", {"events": [EVENT]}, {"content-type": "text/plain", "origin": ORIGIN}, 202),
        ("/v1/events", {"events": [EVENT]}, {"content-type": "text/plain", "origin": "https://elsewhere.example"}, 415),
        ("/v1/events", {"events": [{}]}, JSON, 422),
        ("/v1/events", {}, JSON, 422),
    ],
)
def test_a_request_in_one_piece_is_answered_as_one_in_two(
    server: Live, path: str, body: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    sent, named = json.dumps(body).encode(), bearer("shop") | headers
    if status == 202:
        asked(server, path, sent, named, in_pieces=False)  # so that both find the event stored
    whole, parts = (asked(server, path, sent, named, in_pieces=in_pieces) for in_pieces in (False, True))
    assert whole == parts
    assert whole[0] == status


def test_a_broken_body_too(server: Live) -> None:
    whole, parts = (
        asked(server, "/v1/recommend", b'{"num', bearer("shop") | JSON, in_pieces=in_pieces) for in_pieces in (False, True)
    )
    assert whole == parts
    assert whole[0] == 400
