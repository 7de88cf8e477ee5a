import asyncio
import math
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from service.api.schemas import RecommendRequest
from service.engine import process as engine_process
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
from service.engine.process import EngineProcess
from service.histories.history import UserHistory
from service.model.user_states import Keeping
from service.ranking.recommend import Asked, recommend_many
from service.release.loaded import LoadedRelease
from tests.service.conftest import NOW_MS, TwoReleases, recommend
from twotower.artefacts.release import VECTORS, release_path

T = TypeVar("T")


class Server:
    """The other end of the socket."""

    def __init__(self, setup: Setup) -> None:
        self.process = EngineProcess(setup)
        self.replies: dict[int, Answer | Failure] = {}
        self.states: list[State] = []
        self.connection: Connection[Reply] = Connection(Reply, self._receive, lambda *_: None, lambda: None)

    def _receive(self, reply: Reply) -> None:
        if isinstance(reply, State):
            self.states.append(reply)
        else:
            self.replies[reply.number] = reply

    async def ask(self, *messages: Any) -> list[Answer | Failure]:
        """Send these in one turn of the loop; the answers to those that are not cancelled."""
        for message in messages:
            self.connection.send(message)
        numbers = [message.number for message in messages if not isinstance(message, DropRelease)]
        numbers = [n for n in numbers if Cancel(n) not in messages]
        while not all(n in self.replies for n in numbers):
            await asyncio.sleep(0.005)
        return [self.replies[n] for n in numbers]


def serve(store: Path, work: Callable[[Server], Awaitable[T]]) -> T:
    """Run `work` with a process that runs in this one, on the same event loop."""

    async def run() -> T:
        server = Server(Setup(str(store), None, 1, 32, 4096, 1 << 26, 0.0))
        ours, theirs = socket.socketpair()
        running = asyncio.create_task(server.process.run(theirs))
        await asyncio.get_running_loop().create_unix_connection(lambda: server.connection, sock=ours)
        try:
            async with asyncio.timeout(20):
                return await work(server)
        finally:
            server.connection.close()
            async with asyncio.timeout(1):
                await running  # it ends with the socket
            server.process.engine.close()

    return asyncio.run(run())


def ask(number: int, release: int, deadline_s: float = math.inf, **body: Any) -> Ask:
    return Ask(number, release, 32, deadline_s, CheckedRequest(**body), UserHistory(), NOW_MS)


def item_ids(reply: Answer | Failure) -> list[str]:
    assert isinstance(reply, Answer), reply
    assert reply.ranking is not None
    return [item.item_id for item in reply.ranking.items]


def test_what_it_answers_is_what_the_release_answers_and_it_says_how_it_goes(tiny_store: Path, release: LoadedRelease) -> None:
    async def work(server: Server) -> None:
        loaded, answered = [*await server.ask(Load(0, 5, release.id)), *await server.ask(ask(1, 5, user_id="ann"))]
        assert loaded == Answer(0)
        assert isinstance(answered, Answer)
        assert answered.ranking == recommend(release, RecommendRequest(user_id="ann"), UserHistory(), NOW_MS)
        assert answered.kept_bytes == 0, "of no events"
        state = server.states[-1]
        assert (state.keeping.misses, state.keeping.hits) == (1, 0)
        assert state.second_per_cost > 0
        assert [batch for state in server.states for batch in state.batches] == [(1, 32)]
        await asyncio.sleep(0.6)
        assert time.monotonic() - server.states[-1].beat_s < 0.6

    serve(tiny_store, work)


def test_a_batch_never_mixes_releases(two: TwoReleases, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[tuple[str, int]] = []

    def noted(release: LoadedRelease, batch: Sequence[Asked], keeping: Keeping) -> list[Any]:
        batches.append((release.id, len(batch)))
        return recommend_many(release, batch, keeping)

    monkeypatch.setattr(engine_process, "recommend_many", noted)

    async def work(server: Server) -> None:
        await server.ask(Load(0, 0, two.first), Load(1, 1, two.second))
        calls = [ask(10 + n, release) for n, release in enumerate((0, 0, 1, 1, 0))]
        answers = [frozenset(item_ids(reply)) for reply in await server.ask(*calls)]
        assert answers[0] == answers[1] == answers[4]
        assert answers[2] == answers[3]
        assert not answers[0] & answers[2]

    serve(two.store, work)
    assert {release for release, _ in batches} == {two.first, two.second}
    assert sum(size for _, size in batches) == 5


def test_what_goes_wrong_with_one_request_is_told_to_it_alone(tiny_store: Path, release: LoadedRelease) -> None:
    async def work(server: Server) -> None:
        await server.ask(Load(0, 0, release.id))
        calls = [
            ask(1, 0),
            ask(2, 0, filter="no such column = 1"),
            ask(3, 0, deadline_s=time.monotonic() - 1),
            ask(4, 99),
        ]
        good, refused, late, lost = await server.ask(*calls)
        assert len(item_ids(good)) == 10
        assert isinstance(refused, Failure)
        assert (refused.code, refused.field) == ("invalid_request", "filter")
        assert isinstance(late, Failure)
        assert late.code == "deadline_exceeded"
        assert isinstance(lost, Failure)
        assert (lost.kind, lost.code) == ("KeyError", None)

    serve(tiny_store, work)


def test_who_is_cancelled_is_not_worked_for(tiny_store: Path, release: LoadedRelease) -> None:
    async def work(server: Server) -> None:
        await server.ask(Load(0, 0, release.id))
        await server.ask(ask(1, 0, user_id="ann"), Cancel(1), Cancel(77), ask(2, 0, user_id="bob"))
        await server.ask(ask(3, 0, user_id="eve"))
        assert 1 not in server.replies
        assert server.states[-1].keeping.misses == 2

    serve(tiny_store, work)


def test_a_user_is_forgotten_after_what_was_asked_before_and_before_what_comes_after(
    tiny_store: Path, release: LoadedRelease
) -> None:
    async def work(server: Server) -> None:
        await server.ask(Load(0, 0, release.id))
        calls: list[Message] = [ask(1, 0, user_id="ann"), Forget(2, 0, ("user", "ann")), ask(3, 0, user_id="ann")]
        assert [cast(Answer, reply).kept_bytes is not None for reply in await server.ask(*calls)] == [True, False, True]
        assert (server.states[-1].keeping.misses, server.states[-1].keeping.hits) == (2, 0)

    serve(tiny_store, work)


def test_a_release_that_is_here_already_is_ready_at_once_and_knows_nobody(
    tiny_store: Path, release: LoadedRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(server: Server) -> None:
        await server.ask(Load(0, 0, release.id))
        await server.ask(ask(1, 0, user_id="ann"))
        monkeypatch.delattr(engine_process, "open_release")
        await server.ask(Load(2, 2, release.id), DropRelease(0))
        await server.ask(ask(3, 2, user_id="ann"))
        assert server.states[-1].keeping.hits == 0
        (gone,) = await server.ask(ask(4, 0))
        assert isinstance(gone, Failure)

    serve(tiny_store, work)


def test_a_release_that_must_not_be_used_is_refused_and_the_others_answer_on(two: TwoReleases) -> None:
    path = release_path(two.store, two.second) / VECTORS
    path.write_bytes(b"rotten" + path.read_bytes()[6:])

    async def work(server: Server) -> None:
        loaded, refused = await server.ask(Load(0, 0, two.first), Load(1, 1, two.second))
        assert loaded == Answer(0)
        assert isinstance(refused, Failure)
        assert refused.kind == "IntegrityError"
        assert len(item_ids((await server.ask(ask(2, 0)))[0])) == 10

    serve(two.store, work)


def test_an_answer_that_cannot_be_sent_is_a_failure(
    tiny_store: Path, release: LoadedRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(server: Server) -> None:
        await server.ask(Load(0, 0, release.id))
        monkeypatch.setattr("service.engine.frames.MAX_FRAME_BYTES", 4096)
        too_large, good = await server.ask(ask(1, 0, num_results=400), ask(2, 0, num_results=3))
        assert isinstance(too_large, Failure)
        assert too_large.code == "body_too_large"
        assert len(item_ids(good)) == 3

    serve(tiny_store, work)


def test_it_ends_when_its_engine_has(tiny_store: Path) -> None:
    async def run() -> None:
        process = EngineProcess(Setup(str(tiny_store), None, 1, 32, 4096, 1 << 26, 0.0))
        ours, theirs = socket.socketpair()
        with ours:
            running = asyncio.create_task(process.run(theirs))
            await asyncio.sleep(0.05)
            process.engine.close()
            async with asyncio.timeout(2):
                await running

    asyncio.run(run())
