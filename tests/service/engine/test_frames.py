import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from service.api.errors import ApiError
from service.engine import frames
from service.engine.frames import Answer, Cancel, Connection, DropRelease, Failure
from twotower.errors import IntegrityError

Messages = Cancel | DropRelease | Answer


class End:
    """A connection, and what became of it; the other end is a plain socket."""

    def __init__(self) -> None:
        self.received: list[Any] = []
        self.spoilt: list[tuple[Any, Exception]] = []
        self.num_ends = 0
        self.connection: Connection[Any] = Connection(
            Messages, self.received.append, lambda m, e: self.spoilt.append((m, e)), self._end
        )

    def _end(self) -> None:
        self.num_ends += 1


def talk(work: Callable[[End, socket.socket], Awaitable[None]]) -> End:
    """Run `work` with both ends."""
    end = End()

    async def run() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: end.connection, sock=ours)
        with theirs:
            await work(end, theirs)
        end.connection.close()
        await asyncio.sleep(0)

    asyncio.run(run())
    return end


def frame(*messages: Any) -> bytes:
    body = msgspec.msgpack.encode(messages)
    return len(body).to_bytes(4) + body


async def soon() -> None:
    await asyncio.sleep(0.02)


def test_what_is_sent_in_one_turn_of_the_event_loop_is_one_frame() -> None:
    async def work(end: End, other: socket.socket) -> None:
        assert [end.connection.send(Cancel(1)), end.connection.send(DropRelease(7)), end.connection.send(Cancel(2))] == [
            True,
            False,
            False,
        ]
        await soon()
        assert other.recv(4096) == frame(Cancel(1), DropRelease(7), Cancel(2))
        assert end.connection.send(Cancel(3))
        await soon()
        assert other.recv(4096) == frame(Cancel(3))

    talk(work)


def test_frames_may_come_in_any_pieces() -> None:
    async def work(end: End, other: socket.socket) -> None:
        for byte in frame(Cancel(1), DropRelease(7)):
            other.send(bytes([byte]))
            await asyncio.sleep(0)
        other.send(frame(Cancel(2)) + frame() + frame(Cancel(3)))
        await soon()

    assert talk(work).received == [Cancel(1), DropRelease(7), Cancel(2), Cancel(3)]


def test_of_half_a_frame_nothing_is_taken() -> None:
    async def work(end: End, other: socket.socket) -> None:
        other.send(frame(Cancel(1)) + frame(Cancel(2), Cancel(3))[:-1])
        other.shutdown(socket.SHUT_RDWR)
        await soon()
        assert not end.connection.is_open

    end = talk(work)
    assert (end.received, end.num_ends) == ([Cancel(1)], 1)


@pytest.mark.parametrize(
    "sent",
    [
        (frames.MAX_FRAME_BYTES + 1).to_bytes(4),  # and it does not wait for the rest
        frame({"Cancel": 1}),
        frame(["Load", 1, 2, "release"]),  # a message that this end is not to be sent
        (5).to_bytes(4) + b"\xc1\xc1\xc1\xc1\xc1",
        frame(["Cancel", "1"]),
    ],
    ids=["too large", "a map", "another message", "no messagepack", "a wrong type"],
)
def test_who_sends_no_frame_is_hung_up_on(sent: bytes) -> None:
    async def work(end: End, other: socket.socket) -> None:
        other.send(sent)
        await soon()
        assert other.recv(10) == b""

    end = talk(work)
    assert (end.received, end.num_ends) == ([], 1)


def test_a_message_that_cannot_be_sent_keeps_no_other_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 100)
    large, odd = Failure(2, "x" * 100, ""), Failure(3, "\ud800", "")

    async def work(end: End, other: socket.socket) -> None:
        for message in (Cancel(1), large, odd, Cancel(4)):
            end.connection.send(message)
        await soon()
        assert other.recv(4096) == frame(Cancel(1)) + frame(Cancel(4))

    (first, too_large), (second, not_text) = talk(work).spoilt
    assert (first, second) == (large, odd)
    assert isinstance(too_large, ApiError)
    assert too_large.status == 413
    assert isinstance(not_text, UnicodeEncodeError)


def test_an_error_is_the_same_on_the_other_side() -> None:
    def cross(error: Exception) -> Exception:
        return msgspec.msgpack.decode(msgspec.msgpack.encode(Failure.of(1, error)), type=Failure).error()

    refused = cross(ApiError("quota_exceeded", "too many", "user_id", 7))
    assert isinstance(refused, ApiError)
    assert (refused.code, refused.message, refused.field, refused.retry_after_s) == ("quota_exceeded", "too many", "user_id", 7)
    for known in (IntegrityError("rotten"), MemoryError("full"), OSError("gone")):
        again = cross(known)
        assert (type(again), str(again)) == (type(known), str(known))


def test_an_error_that_nobody_foresaw_says_where_it_came_from() -> None:
    def divide() -> float:
        return 1 // 0

    with pytest.raises(ZeroDivisionError) as failed:
        divide()
    error = Failure.of(1, failed.value).error()
    assert type(error) is RuntimeError
    assert "in divide" in str(error)
