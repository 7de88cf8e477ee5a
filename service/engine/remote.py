"""The engine in a process of its own, behind the same interface as the engine on a thread.

Calls of the model run in that process; rare work, such as item changes, runs on a thread here. Admission is decided here, from
the waiting requests and from the pace that the process reports.
"""

import asyncio
import os
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple, cast

import msgspec

from service.api.errors import ApiError
from service.api.schemas import PlainRecommendRequest, RecommendRequest, SimilarRequest
from service.api.scores import ScoreRequest
from service.engine.frames import (
    Answer,
    Ask,
    Cancel,
    Connection,
    DropRelease,
    Failure,
    Forget,
    HandOver,
    Load,
    Message,
    Recommend,
    Reply,
    Score,
    Setup,
    Similar,
    State,
)
from service.engine.thread import CLOSE_S, Batched, Engine, Limits, Place
from service.model.cpu_dtype import DtypeName
from service.ranking.rules import Ranking
from service.ranking.score import Scores
from service.ranking.similar import SimilarItems
from service.ranking.user_request import UserRequest
from service.release.loaded import LoadedRelease, hand_over_users
from service.release.loading import device_of
from service.settings import Settings
from service.states.cache import SAVE_S, UserCache, UserStates
from service.states.memory import UserKey
from service.states.user_state import UserState

ENDED = "the engine's process has ended"


@dataclass(frozen=True, slots=True)
class _Waiting:
    """One call that is not answered yet."""

    future: "asyncio.Future[Answer]"
    cost: int
    since_s: float


class _Elsewhere(NamedTuple):
    """Stands for a user state that the process has cached, in the book about its cache here."""

    num_bytes: int


class _Kind(NamedTuple):
    """The message for a type of request, and the decoder of its result."""

    message: Callable[..., Ask]
    result: msgspec.msgpack.Decoder[Any]


_RECOMMEND = _Kind(Recommend, msgspec.msgpack.Decoder(Ranking))
_KINDS: dict[type, _Kind] = {
    RecommendRequest: _RECOMMEND,
    PlainRecommendRequest: _RECOMMEND,
    ScoreRequest: _Kind(Score, msgspec.msgpack.Decoder(Scores)),
    SimilarRequest: _Kind(Similar, msgspec.msgpack.Decoder(SimilarItems)),
}


class RemoteEngine(Engine):
    """An engine whose model runs in another process. It serves one event loop, the one that first calls `load`."""

    def __init__(self, setup: Setup, limits: Limits) -> None:
        super().__init__(setup.num_threads, limits)
        self.cache = UserCache(setup.user_cache_bytes, setup.verify_share)  # its counters are those that the process reports
        self._book = UserCache(setup.user_cache_bytes)  # the sizes of the states that the process has cached
        self._setup = setup
        self._numbers = count()
        self._waiting: dict[int, _Waiting] = {}  # by the number of the call, oldest first
        self._waiting_cost = self._num_patient = 0
        self._their_beat_s = monotonic()
        self._releases: weakref.WeakKeyDictionary[UserStates, int] = weakref.WeakKeyDictionary()
        self._has_ended = False
        self._connection: Connection[Reply] = Connection(Reply, self._receive, self._unsendable, self._ended)

    def start(self) -> None:
        """Start the thread and the process."""
        super().start()
        self._socket, theirs = socket.socketpair()
        # The process must run the same code as we do, and no module that happens to be in its current directory.
        path = os.pathsep.join(place or str(Path.cwd()) for place in sys.path)
        command = [sys.executable, "-P", "-m", "service.engine.process", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                [*command, msgspec.json.encode(self._setup)],
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def close(self) -> None:
        """Finish the work queued here, then end the process. If it keeps user states in a file, it has time to write them."""
        super().close()
        if self._setup.user_cache_dir:
            with suppress(subprocess.TimeoutExpired, OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # the process sees at once that its server leaves
                self._process.wait(2 * SAVE_S)
        self._connection.close()
        self._socket.close()
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_S)

    def abandon(self, error: ApiError) -> None:
        """Fail all waiting and all further calls with `error`, and kill the process."""
        super().abandon(error)
        for waiting in self._waiting.values():
            if not waiting.future.done():
                waiting.future.set_exception(error)
        self._process.kill()

    def trouble(self, limit_s: float) -> str | None:
        """What is wrong with the process or the thread; None if nothing is."""
        return ENDED if self._has_ended else super().trouble(limit_s)

    @property
    def beat_s(self) -> float:
        """When (monotonic) thread and process last moved: the earlier of both moments."""
        return min(super().beat_s, self._their_beat_s)

    @property
    def num_queued(self) -> int:
        """Requests that wait, or that the process works on, without patient ones."""
        return super().num_queued + len(self._waiting) - self._num_patient

    @property
    def num_patient(self) -> int:
        """Patient requests that wait, or that the process works on."""
        return self._num_patient

    @property
    def queued_cost(self) -> int:
        """Tokens waiting or being read."""
        return self._waiting_cost

    @property
    def _oldest_wait_s(self) -> float:
        since_s = next((waiting.since_s for waiting in self._waiting.values() if waiting.cost), None)
        return max(super()._oldest_wait_s, 0.0 if since_s is None else monotonic() - since_s)

    async def load(self, release: LoadedRelease) -> None:
        """Have the process load and verify the release. The process keeps it until it is freed here."""
        if self._lost is not None:
            raise self._lost
        if not self._connection.is_open:
            loop = asyncio.get_running_loop()
            await loop.create_unix_connection(lambda: self._connection, sock=self._socket)
        if release.users in self._releases:
            return
        number = next(self._numbers)
        await self._call(Load(number, number, release.id), number)
        self._releases[release.users] = number
        weakref.finalize(release.users, self._release, asyncio.get_running_loop(), number).atexit = False

    def hand_over(self, heir: Any, before: Any, hand_over: Callable[[Any, Any], None]) -> None:  # noqa: ARG002 - that of a thread
        """As Engine.hand_over: in the process, and in the book about its cache."""
        hand_over_users(self._book, heir, before)
        if heir.users in self._releases and before.users in self._releases:
            self._connection.send(HandOver(self._releases[heir.users], self._releases[before.users]))

    async def submit_to(self, batched: Batched, argument: Any, place: Place) -> Any:
        """As Engine.submit_to. The type of the argument chooses the call: a `UserRequest`, or the key of a user to forget."""
        place.give_back()  # from here on it counts as queued
        cost, is_patient = 0 if place.is_patient else place.cost, place.is_patient
        number = next(self._numbers)
        if not isinstance(argument, UserRequest):
            users, key = cast(UserStates, batched.of), cast(UserKey, argument)
            note(self._book, users, key, (await self._call(Forget(number, self._releases[users], key), number)).kept_bytes)
            return None
        users, kind = cast(LoadedRelease, batched.of).users, _KINDS[type(argument.request)]
        # The message declares the type that the process decodes, which has the same fields.
        request = cast(Any, argument.request)
        call = kind.message(
            number, self._releases[users], place.cost, place.deadline_s, argument.stored, argument.now_ms, request
        )
        answer = await self._call(call, number, cost, is_patient)
        if argument.key:
            note(self._book, users, argument.key, answer.kept_bytes)
        return kind.result.decode(answer.result)

    async def _call(self, call: Message, number: int, cost: int = 0, is_patient: bool = False) -> Answer:
        if self._lost is not None:
            raise self._lost
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = _Waiting(future, cost, monotonic())
        self._waiting_cost += cost
        self._num_patient += is_patient
        self._connection.send(call)
        try:
            return await future
        except asyncio.CancelledError:
            self._connection.send(Cancel(number))
            raise
        finally:
            del self._waiting[number]
            self._waiting_cost -= cost
            self._num_patient -= is_patient

    def _receive(self, reply: Reply) -> None:
        if isinstance(reply, State):
            self._their_beat_s = reply.beat_s
            self._second_per_cost, self._deviation = reply.second_per_cost, reply.deviation
            for requests, cost in reply.batches:
                self.on_batch(requests, cost)
            self.cache.counters = reply.counters
        elif (waiting := self._waiting.get(reply.number)) and not waiting.future.done():
            if isinstance(reply, Failure):
                waiting.future.set_exception(reply.error())
            else:
                waiting.future.set_result(reply)

    def _unsendable(self, call: Any, error: Exception) -> None:
        if (waiting := self._waiting.get(call.number)) and not waiting.future.done():
            waiting.future.set_exception(error)

    def _ended(self) -> None:
        self._has_ended = True
        if self._lost is None:
            self.abandon(ApiError("not_ready", f"{ENDED}; send the request again"))

    def _release(self, loop: asyncio.AbstractEventLoop, release: int) -> None:
        """Tell the process to free a release. Runs on the thread that dropped the last reference to it."""
        with suppress(RuntimeError):  # the loop was closed, and the process has ended with it
            loop.call_soon_threadsafe(self._connection.send, DropRelease(release))


def note(book: UserCache, users: UserStates, key: UserKey, num_bytes: int | None) -> None:
    """Note in the book the size of a user's state in the process, None if it has none.

    The book follows the same rules as the cache of the process. It is needed here to estimate what a request costs.
    """
    if num_bytes is None:
        users.drop(key)
    else:
        users.take(key)
        book.put(users, key, cast(UserState, _Elsewhere(num_bytes)))


def setup_of(settings: Settings, releases: Path, dtype: DtypeName = "fp32") -> Setup:
    """The Setup of the process, from the settings of the server; EnvironmentProblem for a device that this machine has not."""
    device_of(settings.device)
    return Setup(
        releases=str(releases),
        verify_key=str(settings.verify_key) if settings.verify_key else None,
        num_threads=settings.torch_threads,
        batch_requests=settings.batch_requests,
        batch_cost=settings.batch_tokens,
        user_cache_bytes=settings.user_cache_mb << 20,
        verify_share=settings.verify_share,
        device=settings.device,
        dtype=dtype,
        page_pool_bytes=settings.page_pool_mb << 20,
        user_cache_dir=str(settings.user_cache_dir) if settings.user_cache_dir else None,
        user_file_bytes=int(settings.user_cache_gb * 2**30),
    )
