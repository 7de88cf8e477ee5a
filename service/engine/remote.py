"""The engine in a process of its own, behind the interface of the one on a thread.

Recommendations are made there; what is rare runs on a thread here. Who is let in is decided here, by what waits and by the
pace that the process reports.
"""

import asyncio
import os
import socket
import subprocess
import sys
import weakref
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple, cast

import msgspec

from service.api.errors import ApiError
from service.engine.frames import (
    Answer,
    Ask,
    Cancel,
    CheckedRequest,
    Connection,
    DropRelease,
    Failure,
    Forget,
    Load,
    Message,
    Reply,
    Setup,
    State,
)
from service.engine.thread import CLOSE_S, Batched, Engine, Limits
from service.model.user_states import Keeping, Key, UserState, UserStates
from service.ranking.recommend import Asked
from service.release.loaded import LoadedRelease
from service.release.source import device_of
from service.settings import Settings

ENDED = "the engine's process has ended"


@dataclass(frozen=True, slots=True)
class _Waiting:
    """One call that was not answered yet."""

    future: "asyncio.Future[Answer]"
    cost: int
    since_s: float


class _Elsewhere(NamedTuple):
    """What the process keeps of a user, as far as it is known here."""

    num_bytes: int


class RemoteEngine(Engine):
    """Serves one event loop, that of the first `load`."""

    def __init__(self, setup: Setup, limits: Limits) -> None:
        super().__init__(setup.num_threads, limits)
        self.keeping = Keeping(setup.user_cache_bytes, setup.verify_share)  # as the process last said
        self._setup = setup
        self._numbers = count()
        self._waiting: dict[int, _Waiting] = {}  # by the number of the call, oldest first
        self._waiting_cost = 0
        self._their_beat_s = monotonic()
        self._releases: weakref.WeakKeyDictionary[UserStates, int] = weakref.WeakKeyDictionary()
        self._has_ended = False
        self._connection: Connection[Reply] = Connection(Reply, self._receive, self._spoilt, self._ended)

    def start(self) -> None:
        """Start the thread and the process."""
        super().start()
        self._socket, theirs = socket.socketpair()
        # The same code as ours, and none that happens to lie in the current directory.
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
        """Finish what is queued here, then end the process: it has nothing to lose."""
        super().close()
        self._connection.close()
        self._socket.close()
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_S)

    def abandon(self, error: ApiError) -> None:
        """Answer all that waits, and all that comes, with `error`; the process is killed."""
        super().abandon(error)
        for waiting in self._waiting.values():
            if not waiting.future.done():
                waiting.future.set_exception(error)
        self._process.kill()

    def trouble(self, limit_s: float) -> str | None:
        """What is wrong with the process or the thread."""
        return ENDED if self._has_ended else super().trouble(limit_s)

    @property
    def beat_s(self) -> float:
        """When (monotonic) the one of both moved that has stood still for longer."""
        return min(super().beat_s, self._their_beat_s)

    @property
    def num_queued(self) -> int:
        """Requests waiting, and those that the process works on."""
        return super().num_queued + len(self._waiting)

    @property
    def queued_cost(self) -> int:
        """Tokens waiting or being read."""
        return self._waiting_cost

    @property
    def _oldest_wait_s(self) -> float:
        since_s = next((waiting.since_s for waiting in self._waiting.values() if waiting.cost), None)
        return max(super()._oldest_wait_s, 0.0 if since_s is None else monotonic() - since_s)

    async def load(self, release: LoadedRelease) -> None:
        """Have it loaded, verified and proven by the process, which keeps it as long as somebody here does."""
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
        weakref.finalize(release.users, self._let_go, asyncio.get_running_loop(), number).atexit = False

    async def submit_to(self, batched: Batched, argument: Any, cost: int, deadline_s: float) -> Any:
        """As Engine.submit_to. The process knows what is to be done from the argument: an `Asked`, or a user to be forgotten."""
        if self._lost is None and self.is_full(deadline_s, cost):
            raise self.refusal()
        users, number = batched.of.users, next(self._numbers)
        release = self._releases[users]
        call: Ask | Forget
        if isinstance(argument, Asked):
            # Typed by what it is read as: both have the same fields.
            request, key = cast(CheckedRequest, argument.request), argument.key
            call = Ask(number, release, cost, deadline_s, request, argument.stored, argument.now_ms)
        else:
            call, key = Forget(number, release, argument), argument
        answer = await self._call(call, number, cost)
        if key:
            note(users, key, answer.kept_bytes, self.keeping.max_bytes)
        return answer.ranking

    async def _call(self, call: Message, number: int, cost: int = 0) -> Answer:
        if self._lost is not None:
            raise self._lost
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = _Waiting(future, cost, monotonic())
        self._waiting_cost += cost
        self._connection.send(call)
        try:
            return await future
        except asyncio.CancelledError:
            self._connection.send(Cancel(number))
            raise
        finally:
            del self._waiting[number]
            self._waiting_cost -= cost

    def _receive(self, reply: Reply) -> None:
        if isinstance(reply, State):
            self._their_beat_s = reply.beat_s
            self._second_per_cost, self._deviation = reply.second_per_cost, reply.deviation
            for requests, cost in reply.batches:
                self.on_batch(requests, cost)
            for field in fields(Keeping):
                setattr(self.keeping, field.name, getattr(reply.keeping, field.name))
        elif (waiting := self._waiting.get(reply.number)) and not waiting.future.done():
            if isinstance(reply, Failure):
                waiting.future.set_exception(reply.error())
            else:
                waiting.future.set_result(reply)

    def _spoilt(self, call: Any, error: Exception) -> None:
        if (waiting := self._waiting.get(call.number)) and not waiting.future.done():
            waiting.future.set_exception(error)

    def _ended(self) -> None:
        self._has_ended = True
        if self._lost is None:
            self.abandon(ApiError("not_ready", f"{ENDED}; ask again"))

    def _let_go(self, loop: asyncio.AbstractEventLoop, release: int) -> None:
        """Called by whichever thread was the last to hold the release."""
        with suppress(RuntimeError):  # the loop was closed, and the process has ended with it
            loop.call_soon_threadsafe(self._connection.send, DropRelease(release))


def note(users: UserStates, key: Key, num_bytes: int | None, max_bytes: int) -> None:
    """Keep book of what the process keeps of a user, by its own rules: what a request costs depends on it."""
    if num_bytes is None:
        users.drop(key)
    else:
        users.take(key)
        users.put(key, cast(UserState, _Elsewhere(num_bytes)), max_bytes)


def setup_of(settings: Settings, releases: Path) -> Setup:
    """What the process is told at its start."""
    return Setup(
        releases=str(releases),
        verify_key=str(settings.verify_key) if settings.verify_key else None,
        num_threads=settings.torch_threads,
        batch_requests=settings.batch_requests,
        batch_cost=settings.batch_tokens,
        user_cache_bytes=settings.user_cache_mb << 20,
        verify_share=settings.verify_share,
        device=str(device_of(settings)),
    )
