"""The process of an engine: it loads releases, answers the requests that its server sends, and ends with its server."""

import asyncio
import gc
import math
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch

from service.api.schemas import AboutUser
from service.engine.frames import (
    Answer,
    Call,
    Cancel,
    Connection,
    DropRelease,
    Failure,
    Forget,
    HandOver,
    Load,
    Message,
    Recommend,
    Score,
    Setup,
    Similar,
    State,
    UserCall,
)
from service.engine.thread import TURN_S, Batched, Engine, Limits, Place
from service.model.pages import PagePools
from service.ranking.recommend import recommend_many
from service.ranking.score import score_many
from service.ranking.similar import similar_many
from service.ranking.user_request import UserRequest, is_patient
from service.release.loaded import LoadedRelease, hand_over_users
from service.release.loading import device_of, open_release
from service.release.memory import give_back
from service.states.cache import UserCache, forget_users
from twotower.artefacts.release import release_path
from twotower.artefacts.signature import load_verifier

BEAT_S = 0.25


class EngineProcess:
    """Runs an ordinary engine with the releases that the server has loaded here, and answers the server's calls."""

    def __init__(self, setup: Setup) -> None:
        self._setup, self._device, self._pools = setup, device_of(setup.device, setup.dtype), PagePools(setup.page_pool_bytes)
        self._releases: dict[int, LoadedRelease] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}  # by the number of the call
        self._batches: deque[tuple[int, int]] = deque()
        self._cache = UserCache(setup.user_cache_bytes, setup.verify_share)
        if setup.user_cache_dir:
            self._cache.open_file(Path(setup.user_cache_dir), setup.user_file_bytes)
        works: dict[type, Work] = {Recommend: recommend_many, Score: score_many, Similar: similar_many}
        self._works = {kind: partial(with_kept_bytes, work, cache=self._cache) for kind, work in works.items()}
        self._forget = partial(forget_users, cache=self._cache)
        # There are no limits on waiting here, because the server has already decided which requests may wait.
        self.engine = Engine(setup.num_threads, Limits(setup.batch_requests, setup.batch_cost, sys.maxsize, math.inf))
        self.engine.on_batch = lambda requests, cost: self._batches.append((requests, cost))
        self._loading = ThreadPoolExecutor(1, "load", partial(torch.set_num_threads, 1))
        self._has_ended = asyncio.Event()
        self._connection: Connection[Call] = Connection(Call, self._receive, self._unsendable, self._has_ended.set)

    async def run(self, connection: socket.socket) -> None:
        """Answer calls until the server has gone or the engine's thread has ended."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self._connection, sock=connection)
        self.engine.start()
        while not self._has_ended.is_set() and self.engine.trouble(math.inf) is None:
            self._connection.send(self._state())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._has_ended.wait(), BEAT_S)
        if self._cache.file and self.engine.trouble(math.inf) is None:
            self.engine.close()
            self._cache.close()

    def _receive(self, call: Call) -> None:
        match call:
            case Cancel():
                if task := self._tasks.get(call.number):
                    task.cancel()
            case DropRelease():
                self._releases.pop(call.release, None)
                self._loading.submit(give_back)
            case HandOver():
                heir, before = self._releases.get(call.release), self._releases.get(call.before)
                if heir and before:
                    self.engine.hand_over(heir, before, partial(hand_over_users, self._cache))
            case _:
                self._tasks[call.number] = asyncio.create_task(self._answer(call))
                self._tasks[call.number].add_done_callback(lambda _: self._tasks.pop(call.number))

    async def _answer(self, call: Load | UserCall | Forget) -> None:
        reply: Answer | Failure
        try:
            reply = await self._do(call)
        except Exception as error:
            reply = Failure.of(call.number, error)
        if self._connection.send(reply):
            self._connection.send(self._state())

    async def _do(self, call: Load | UserCall | Forget) -> Answer:
        match call:
            case Load():
                self._releases[call.release] = await self._load(call.release_id)
                if len(self._releases) == 1:
                    gc.freeze()  # the objects of the first release live long: the collector need not visit them again
                return Answer(call.number)
            case Forget():
                work = Batched(self._forget, self._releases[call.release].users)
                await self.engine.submit_to(work, call.key, Place(self.engine, 0, math.inf))
                return Answer(call.number)
            case _:
                work = Batched(self._works[type(call)], self._releases[call.release], sets_pace=isinstance(call, Recommend))
                user_request = UserRequest(call.request, call.stored, call.now_ms)
                place = Place(self.engine, call.cost, call.deadline_s, is_patient(call.request))  # the server has admitted it
                result, kept_bytes = await self.engine.submit_to(work, user_request, place)
                return Answer(call.number, msgspec.Raw(msgspec.msgpack.encode(result)), kept_bytes)

    async def _load(self, release_id: str) -> LoadedRelease:
        """The release, without cached user states. It is loaded and verified, unless it is here already under another number."""
        if known := next((release for release in self._releases.values() if release.id == release_id), None):
            return replace(known)
        signed_by = load_verifier(Path(self._setup.verify_key)) if self._setup.verify_key else None
        load = partial(open_release, release_path(Path(self._setup.releases), release_id), signed_by)
        return await asyncio.get_running_loop().run_in_executor(self._loading, load, self._device, self._pools)

    def _state(self) -> State:
        batches = [self._batches.popleft() for _ in range(len(self._batches))]
        return State(self.engine.beat_s, *self.engine.pace, batches, self._cache.counters)

    def _unsendable(self, message: Message, error: Exception) -> None:
        assert isinstance(message, Answer), "every State and Failure can be encoded and is small"
        self._connection.send(Failure.of(message.number, error))


Work = Callable[[LoadedRelease, Sequence[Any], UserCache], Sequence[Any]]


def with_kept_bytes(
    work: Work, release: LoadedRelease, batch: Sequence[UserRequest[AboutUser]], cache: UserCache
) -> list[tuple[Any, int | None] | Exception]:
    """The results of `work`, each with the size of its user's cached state in bytes."""
    results = work(release, batch, cache)
    return [
        result if isinstance(result, Exception) else (result, release.users.bytes_of(user.key) if user.key else None)
        for user, result in zip(batch, results, strict=True)
    ]


def main(arguments: Sequence[str]) -> None:
    """Answer over an inherited socket. The arguments are its file descriptor and the Setup in JSON."""
    # A service manager signals all processes of a service. This one ignores the signal, because the server still needs answers to
    # running requests and ends this process afterwards.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    sys.setswitchinterval(TURN_S)

    async def run() -> None:
        await EngineProcess(msgspec.json.decode(arguments[1], type=Setup)).run(socket.socket(fileno=int(arguments[0])))
        os._exit(0)  # at once, without waiting for a release that is being loaded

    asyncio.run(run())


if __name__ == "__main__":
    main(sys.argv[1:])
