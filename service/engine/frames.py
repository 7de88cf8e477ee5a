"""What a server and the process of its engine say to each other over a socket, and how.

The messages of one turn of the event loop go in one frame: its length in four bytes, and a MessagePack array of them. Only
the types below are read; nothing that is received can run code.
"""

import asyncio
import traceback
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec

from service.api.errors import ApiError, Code
from service.api.schemas import RecommendRequest
from service.histories.history import UserHistory
from service.model.user_states import Keeping, Key
from service.ranking.rules import Ranking
from twotower.errors import EnvironmentProblem, FormatError, IntegrityError, ReleaseMismatch, StoreError

M = TypeVar("M")

MAX_FRAME_BYTES = 128 << 20  # half of it holds 256 events as large as a body may be, the largest history there is by default
_LENGTH_BYTES = 4
_KNOWN = {kind.__name__: kind for kind in (IntegrityError, FormatError, ReleaseMismatch, EnvironmentProblem, StoreError)} | {
    kind.__name__: kind for kind in (MemoryError, OSError)
}


class Setup(msgspec.Struct, frozen=True):
    """What the process must know from its start."""

    releases: str  # the directory store they are loaded from
    verify_key: str | None
    num_threads: int
    batch_requests: int
    batch_cost: int
    user_cache_bytes: int
    verify_share: float
    device: str = "cpu"


class CheckedRequest(RecommendRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request whose texts the server has checked: once is enough."""

    def __post_init__(self) -> None:
        pass


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Anything that is sent. `number` is that of a call and of its answer, `release` the one that a `Load` gave it."""


class Load(Message, frozen=True, array_like=True, tag=True):
    """Be ready to answer from a release."""

    number: int
    release: int
    release_id: str


class DropRelease(Message, frozen=True, array_like=True, tag=True):
    """Nobody asks that release any more."""

    release: int


class Ask(Message, frozen=True, array_like=True, tag=True):
    """Recommend; see `service.ranking.recommend.Asked`."""

    number: int
    release: int
    cost: int
    deadline_s: float  # of time.monotonic: one clock for all processes of a machine
    request: CheckedRequest
    stored: UserHistory
    now_ms: int


class Forget(Message, frozen=True, array_like=True, tag=True):
    """Drop what is kept of a user."""

    number: int
    release: int
    key: Key


class Cancel(Message, frozen=True, array_like=True, tag=True):
    """Nobody waits for that answer any more."""

    number: int


class Answer(Message, frozen=True, array_like=True, tag=True):
    """A call that went well."""

    number: int
    ranking: Ranking | None = None  # of an `Ask`
    kept_bytes: int | None = None  # of its user, from now on; None for nothing


class Failure(Message, frozen=True, array_like=True, tag=True):
    """A call that did not."""

    number: int
    kind: str
    text: str
    code: Code | None = None  # of an ApiError, as what follows
    field: str | None = None
    retry_after_s: int | None = None

    @staticmethod
    def of(number: int, error: Exception) -> "Failure":
        """What is said of an error."""
        kind = type(error).__name__
        if isinstance(error, ApiError):
            return Failure(number, kind, error.message, error.code, error.field, error.retry_after_s)
        return Failure(number, kind, str(error) if kind in _KNOWN else "".join(traceback.format_exception(error)))

    def error(self) -> Exception:
        """The same for who called."""
        if self.code is not None:
            return ApiError(self.code, self.text, self.field, self.retry_after_s)
        return _KNOWN.get(self.kind, RuntimeError)(self.text)


class State(Message, frozen=True, array_like=True, tag=True):
    """How the engine is, several times a second and with every frame of answers."""

    beat_s: float  # of time.monotonic, when it last moved
    second_per_cost: float
    deviation: float
    batches: list[tuple[int, int]]  # requests and cost of those done since the last time
    keeping: Keeping


Call = Load | DropRelease | Ask | Forget | Cancel
Reply = Answer | Failure | State


class Connection(asyncio.Protocol, Generic[M]):
    """One end of the socket. `receive` is handed each message, `unsendable` each of ours that cannot be sent and why, and
    `ended` is called once: the other end has gone, or has sent what is no frame.
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
        """Asyncio has the socket."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's only look the same

    def connection_lost(self, _: Exception | None) -> None:
        """The other end has gone, or we hung up."""
        self._transport = None
        self._ended()

    @property
    def is_open(self) -> bool:
        """Whether something can be sent."""
        return self._transport is not None

    def close(self) -> None:
        """Hang up."""
        if self._transport:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Some bytes, which may be any part of a frame or of several."""
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
        """Send it with what else is sent in this turn of the event loop; whether it is the first."""
        self._turn.append(message)
        if len(self._turn) > 1:
            return False
        asyncio.get_running_loop().call_soon(self._end_turn)
        return True

    def _end_turn(self) -> None:
        messages, self._turn = self._turn, []
        self._write(messages)

    def _write(self, messages: list[Message]) -> None:
        """As one frame, or as several when something is wrong with it: the others must not suffer."""
        try:
            frame = msgspec.msgpack.encode(messages)
            if len(frame) > MAX_FRAME_BYTES:
                raise ApiError("body_too_large", f"{len(frame):,} bytes are too many for the engine; ask for less")
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
