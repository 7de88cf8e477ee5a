"""The process of an engine: it loads releases, answers the requests that its server sends, and ends with its server."""

import asyncio
import gc
import math
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import torch

from service.engine.frames import Answer, Ask, Call, Cancel, Connection, DropRelease, Failure, Forget, Load, Message, Setup, State
from service.engine.thread import TURN_S, Batched, Engine, Limits
from service.model.user_states import Keeping
from service.ranking.recommend import Asked, forget_users, recommend_many
from service.ranking.rules import Ranking
from service.release.loaded import LoadedRelease
from service.release.loading import open_release
from service.release.memory import give_back
from twotower.artefacts.release import release_path
from twotower.artefacts.signature import load_verifier

BEAT_S = 0.25


class EngineProcess:
    """An ordinary engine, and the releases that the server asks."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._releases: dict[int, LoadedRelease] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}  # by the number of the call
        self._batches: deque[tuple[int, int]] = deque()
        self._keeping = Keeping(setup.user_cache_bytes, setup.verify_share)
        self._recommend = partial(recommend_and_weigh, keeping=self._keeping)
        # The server has counted and judged already who may wait.
        self.engine = Engine(setup.num_threads, Limits(setup.batch_requests, setup.batch_cost, sys.maxsize, math.inf))
        self.engine.on_batch = lambda requests, cost: self._batches.append((requests, cost))
        self._loading = ThreadPoolExecutor(1, "load", partial(torch.set_num_threads, 1))
        self._has_ended = asyncio.Event()
        self._connection: Connection[Call] = Connection(Call, self._receive, self._spoilt, self._has_ended.set)

    async def run(self, connection: socket.socket) -> None:
        """Answer until the server is gone, or the engine's thread is."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self._connection, sock=connection)
        self.engine.start()
        while not self._has_ended.is_set() and self.engine.trouble(math.inf) is None:
            self._connection.send(self._state())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._has_ended.wait(), BEAT_S)

    def _receive(self, call: Call) -> None:
        match call:
            case Cancel():
                if task := self._tasks.get(call.number):
                    task.cancel()
            case DropRelease():
                self._releases.pop(call.release, None)
                self._loading.submit(give_back)
            case _:
                self._tasks[call.number] = asyncio.create_task(self._answer(call))
                self._tasks[call.number].add_done_callback(lambda _: self._tasks.pop(call.number))

    async def _answer(self, call: Load | Ask | Forget) -> None:
        reply: Answer | Failure
        try:
            reply = await self._do(call)
        except Exception as error:
            reply = Failure.of(call.number, error)
        if self._connection.send(reply):
            self._connection.send(self._state())

    async def _do(self, call: Load | Ask | Forget) -> Answer:
        match call:
            case Load():
                self._releases[call.release] = await self._load(call.release_id)
                if len(self._releases) == 1:
                    gc.freeze()  # as the server does
                return Answer(call.number)
            case Forget():
                work = Batched(forget_users, self._releases[call.release])
                await self.engine.submit_to(work, call.key, 0, math.inf)
                return Answer(call.number)
            case Ask():
                work = Batched(self._recommend, self._releases[call.release])
                asked = Asked(call.request, call.stored, call.now_ms)
                return Answer(call.number, *await self.engine.submit_to(work, asked, call.cost, call.deadline_s))

    async def _load(self, release_id: str) -> LoadedRelease:
        """The release with nothing kept of users; from the disk, verified and proven, unless it is here under another number."""
        if known := next((release for release in self._releases.values() if release.id == release_id), None):
            return replace(known)
        signed_by = load_verifier(Path(self._setup.verify_key)) if self._setup.verify_key else None
        load = partial(open_release, release_path(Path(self._setup.releases), release_id), signed_by)
        device = torch.device(self._setup.device)
        return await asyncio.get_running_loop().run_in_executor(self._loading, load, device)

    def _state(self) -> State:
        batches = [self._batches.popleft() for _ in range(len(self._batches))]
        return State(self.engine.beat_s, *self.engine.pace, batches, self._keeping)

    def _spoilt(self, message: Message, error: Exception) -> None:
        assert isinstance(message, Answer), "a state and a failure are small and plain"
        self._connection.send(Failure.of(message.number, error))


def recommend_and_weigh(
    release: LoadedRelease, batch: Sequence[Asked], keeping: Keeping
) -> list[tuple[Ranking, int | None] | Exception]:
    """As `recommend_many`, each answer with the bytes that are kept of its user."""
    answers = recommend_many(release, batch, keeping)
    return [
        answer if isinstance(answer, Exception) else (answer, release.users.bytes_of(asked.key) if asked.key else None)
        for asked, answer in zip(batch, answers, strict=True)
    ]


def main(arguments: Sequence[str]) -> None:
    """Answer over a socket that was inherited, by its number; the setup is JSON."""
    # Whoever ends a service signals all its processes: requests under way are still to be answered, and then the server ends us.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    sys.setswitchinterval(TURN_S)

    async def run() -> None:
        await EngineProcess(msgspec.json.decode(arguments[1], type=Setup)).run(socket.socket(fileno=int(arguments[0])))
        os._exit(0)  # what is being loaded is not waited for

    asyncio.run(run())


if __name__ == "__main__":
    main(sys.argv[1:])
