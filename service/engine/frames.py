"""The messages between a server and the process of its engine, and the socket connection that carries them.

All messages of one turn of the event loop go into one frame: its length in four bytes, then a MessagePack array of the messages.
Only the types below are decoded, so nothing that is received can run code.
"""

import asyncio
import traceback
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec

from service.api.errors import ApiError, Code
from service.api.schemas import RecommendRequest, SimilarRequest
from service.api.scores import ScoreRequest
from service.histories.history import UserHistory
from service.model.cpu_dtype import DtypeName
from service.states.cache import CacheCounters
from service.states.memory import UserKey
from twotower.device_option import Wanted
from twotower.errors import EnvironmentProblem, FormatError, IntegrityError, ReleaseMismatch, StoreError

M = TypeVar("M")

MAX_FRAME_BYTES = 128 << 20  # the largest history: 256 events, each of at most 300 kB by the limits of its fields; and a body
_LENGTH_BYTES = 4
_KNOWN = {kind.__name__: kind for kind in (IntegrityError, FormatError, ReleaseMismatch, EnvironmentProblem, StoreError)} | {
    kind.__name__: kind for kind in (MemoryError, OSError)
}


class Setup(msgspec.Struct, frozen=True):
    """The settings that the process gets at its start."""

    releases: str  # the directory of the store that releases are loaded from
    verify_key: str | None
    num_threads: int
    batch_requests: int
    batch_cost: int
    user_cache_bytes: int
    verify_share: float
    device: Wanted = "cpu"
    dtype: DtypeName = "fp32"  # on a CPU
    page_pool_bytes: int = 0  # for the histories on a GPU
    user_cache_dir: str | None = None  # of the file of user states
    user_file_bytes: int = 0


class CheckedRecommend(RecommendRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A RecommendRequest that does not check its fields, because the server has checked them already."""

    num_results: int = 10  # our own requests may ask for more than a client's

    def __post_init__(self) -> None:
        pass


class CheckedScore(ScoreRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A ScoreRequest that does not check its fields again."""

    def __post_init__(self) -> None:
        pass


class CheckedSimilar(SimilarRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A SimilarRequest that does not check its fields again."""

    num_results: int = 10  # our own requests may ask for more than a client's

    def __post_init__(self) -> None:
        pass


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Any message. `number` joins a call and its answer; `release` is the number that a `Load` gave to a release."""


class Load(Message, frozen=True, array_like=True, tag=True):
    """Load a release, to answer from it."""

    number: int
    release: int
    release_id: str


class DropRelease(Message, frozen=True, array_like=True, tag=True):
    """Free a release: no request will use it any more."""

    release: int


class HandOver(Message, frozen=True, array_like=True, tag=True):
    """Let a release take over the user states of another one, which answers no more."""

    release: int
    before: int


class Ask(Message, frozen=True, array_like=True):
    """A call for one request; the fields are those of `service.ranking.user_request.UserRequest`."""

    number: int
    release: int
    cost: int
    deadline_s: float  # of time.monotonic: one clock for all processes of a machine
    stored: UserHistory
    now_ms: int


class Recommend(Ask, frozen=True, array_like=True, tag=True):
    """A call for POST /v1/recommend."""

    request: CheckedRecommend


class Score(Ask, frozen=True, array_like=True, tag=True):
    """A call for POST /v1/score."""

    request: CheckedScore


class Similar(Ask, frozen=True, array_like=True, tag=True):
    """A call for POST /v1/similar."""

    request: CheckedSimilar


class Forget(Message, frozen=True, array_like=True, tag=True):
    """Drop the cached state of a user."""

    number: int
    release: int
    key: UserKey


class Cancel(Message, frozen=True, array_like=True, tag=True):
    """Stop working on a call: nobody waits for its answer any more."""

    number: int


class Answer(Message, frozen=True, array_like=True, tag=True):
    """The result of a call that succeeded."""

    number: int
    result: msgspec.Raw = msgspec.Raw(b"\xc0")  # of an `Ask`, in MessagePack; otherwise nil
    kept_bytes: int | None = None  # size of the user's cached state from now on; None if there is none


class Failure(Message, frozen=True, array_like=True, tag=True):
    """The error of a call that failed."""

    number: int
    kind: str
    text: str
    code: Code | None = None  # this and the fields below are only set for an ApiError
    field: str | None = None
    retry_after_s: int | None = None

    @staticmethod
    def of(number: int, error: Exception) -> "Failure":
        """The message for an error."""
        kind = type(error).__name__
        if isinstance(error, ApiError):
            return Failure(number, kind, error.message, error.code, error.field, error.retry_after_s)
        return Failure(number, kind, str(error) if kind in _KNOWN else "".join(traceback.format_exception(error)))

    def error(self) -> Exception:
        """The error to raise for the caller. One of an unexpected type becomes a RuntimeError with the traceback as its text."""
        if self.code is not None:
            return ApiError(self.code, self.text, self.field, self.retry_after_s)
        return _KNOWN.get(self.kind, RuntimeError)(self.text)


class State(Message, frozen=True, array_like=True, tag=True):
    """The state of the engine, sent several times a second and with every frame of answers."""

    beat_s: float  # when the engine last moved, by time.monotonic
    second_per_cost: float
    deviation: float
    batches: list[tuple[int, int]]  # number of requests and cost of each batch since the last State
    counters: CacheCounters


UserCall = Recommend | Score | Similar
Call = Load | DropRelease | HandOver | UserCall | Forget | Cancel
Reply = Answer | Failure | State


class Connection(asyncio.Protocol, Generic[M]):
    """One end of the socket.

    `receive` is called with each message that arrives, and `unsendable` with each message that cannot be sent and the error.
    `ended` is called once, when the connection ends: the other end has gone, or has sent something that is not a frame.
    """

    def __init__(
        self,
        receives: Any,  # a union of messages
        receive: Callable[[M], None],
        unsendable: Callable[[Any, Exception], None],
        ended: Callable[[], None],
    ) -> None:
        self._decoder: msgspec.msgpack.Decoder[list[M]] = msgspec.msgpack.Decoder(list[receives])
        self._receive, self._unsendable, self._ended = receive, unsendable, ended
        self._received = bytearray()
        self._turn: list[Message] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio has opened the connection."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport has the methods but not the type

    def connection_lost(self, _: Exception | None) -> None:
        """The connection was closed, from either end."""
        self._transport = None
        self._ended()

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self._transport is not None

    def close(self) -> None:
        """Close the connection at once."""
        if self._transport:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Collect bytes until there are whole frames, and hand out their messages."""
        self._received += data
        while len(self._received) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(self._received[:_LENGTH_BYTES])
            if end > _LENGTH_BYTES + MAX_FRAME_BYTES:
                return self.close()
            if end > len(self._received):
                return None
            frame = self._received[_LENGTH_BYTES:end]
            del self._received[:end]
            try:
                messages = self._decoder.decode(frame)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                return self.close()
            for message in messages:
                self._receive(message)
        return None

    def send(self, message: Message) -> bool:
        """Send a message in the frame of this turn of the event loop. Returns whether it is the first one in the frame."""
        self._turn.append(message)
        if len(self._turn) > 1:
            return False
        asyncio.get_running_loop().call_soon(self._end_turn)
        return True

    def _end_turn(self) -> None:
        messages, self._turn = self._turn, []
        self._write(messages)

    def _write(self, messages: list[Message]) -> None:
        """Send messages as one frame. If that fails, split them into several frames, so that only the bad message fails."""
        try:
            frame = msgspec.msgpack.encode(messages)
            if len(frame) > MAX_FRAME_BYTES:
                raise ApiError("body_too_large", f"{len(frame):,} bytes are too many for the engine; request less at once")
        except Exception as error:
            if len(messages) == 1:
                self._unsendable(messages[0], error)
            else:
                half = len(messages) // 2
                self._write(messages[:half])
                self._write(messages[half:])
        else:
            if self._transport:
                self._transport.write(len(frame).to_bytes(_LENGTH_BYTES) + frame)
