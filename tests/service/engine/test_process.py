import asyncio
import math
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import pytest

from service.api.schemas import RecommendRequest
from service.engine import process as engine_process
from service.engine.frames import (
    Answer,
    Ask,
    Cancel,
    CheckedRecommend,
    CheckedScore,
    CheckedSimilar,
    Connection,
    DropRelease,
    Failure,
    Forget,
    Load,
    Message,
    Recommend,
    Reply,
    Score,
    Setup,
    Similar,
    State,
)
from service.engine.process import EngineProcess
from service.histories.history import UserHistory
from service.ranking.recommend import recommend_many
from service.ranking.rules import Ranking
from service.ranking.score import Scores, score_many
from service.ranking.similar import SimilarItems, similar_many
from service.ranking.user_request import UserRequest
from service.release.loaded import LoadedRelease
from service.states.cache import UserCache
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
    return Recommend(number, release, 32, deadline_s, UserHistory(), NOW_MS, CheckedRecommend(**body))


def result(reply: Answer | Failure, kind: type[T]) -> T:
    assert isinstance(reply, Answer), reply
    return msgspec.msgpack.decode(reply.result, type=kind)


def item_ids(reply: Answer | Failure) -> list[str]:
    return [item.item_id for item in result(reply, Ranking).items]


def test_what_it_answers_is_what_the_release_answers_and_it_says_how_it_goes(tiny_store: Path, release: LoadedRelease) -> None:
    async def work(server: Server) -> None:
        loaded, answered = [*await server.ask(Load(0, 5, release.id)), *await server.ask(ask(1, 5, user_id="ann"))]
        assert loaded == Answer(0)
        assert isinstance(answered, Answer)
        assert result(answered, Ranking) == recommend(release, RecommendRequest(user_id="ann"), UserHistory(), NOW_MS)
        assert answered.kept_bytes == 0, "of no events"
        state = server.states[-1]
        assert (state.counters.misses, state.counters.hits) == (1, 0)
        assert state.second_per_cost > 0
        assert [batch for state in server.states for batch in state.batches] == [(1, 32)]
        await asyncio.sleep(0.6)
        assert time.monotonic() - server.states[-1].beat_s < 0.6

    serve(tiny_store, work)


def test_it_scores_and_finds_similar_items_as_the_release_does(tiny_store: Path, release: LoadedRelease) -> None:
    candidates, stored = ["item-3", "item-7"], UserHistory()
    scoring = CheckedScore(user_id="ann", candidate_item_ids=candidates)
    finding = CheckedSimilar(user_id="ann", item_id="item-3")

    async def work(server: Server) -> None:
        await server.ask(Load(0, 5, release.id))
        scored, similar = await server.ask(
            Score(1, 5, 32, math.inf, stored, NOW_MS, scoring), Similar(2, 5, 32, math.inf, stored, NOW_MS, finding)
        )
        (expected,) = score_many(release, [UserRequest(scoring, stored, NOW_MS)], UserCache(0))
        assert result(scored, Scores) == expected
        assert {item.item_id for item in expected.items} == set(candidates)
        (like,) = similar_many(release, [UserRequest(finding, stored, NOW_MS)], UserCache(0))
        assert result(similar, SimilarItems) == like
        (unknown,) = await server.ask(
            Similar(3, 5, 32, math.inf, stored, NOW_MS, CheckedSimilar(item_id="unheard of")),
        )
        assert isinstance(unknown, Failure)
        assert (unknown.code, unknown.field) == ("not_found", "item_id")

    serve(tiny_store, work)


def test_a_request_for_explanations_lets_others_go_first(
    tiny_store: Path, release: LoadedRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str | None] = []

    def noted(release: LoadedRelease, batch: Sequence[UserRequest[RecommendRequest]], cache: UserCache) -> list[Any]:
        order.extend(user.request.user_id for user in batch)
        return recommend_many(release, batch, cache)

    monkeypatch.setattr(engine_process, "recommend_many", noted)

    async def work(server: Server) -> None:
        await server.ask(Load(0, 0, release.id))
        gate = threading.Event()
        place = server.process.engine.take_place(0, math.inf)
        blocker = asyncio.create_task(server.process.engine.submit(gate.wait, place))
        asked = asyncio.create_task(server.ask(ask(1, 0, user_id="why", explain=True, num_results=3), ask(2, 0, user_id="what")))
        await asyncio.sleep(0.1)
        gate.set()
        await blocker
        assert [len(item_ids(reply)) for reply in await asked] == [3, 10]

    serve(tiny_store, work)
    assert order == ["what", "why"]


def test_a_batch_never_mixes_releases(two: TwoReleases, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[tuple[str, int]] = []

    def noted(release: LoadedRelease, batch: Sequence[UserRequest[RecommendRequest]], cache: UserCache) -> list[Any]:
        batches.append((release.id, len(batch)))
        return recommend_many(release, batch, cache)

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
        assert server.states[-1].counters.misses == 2

    serve(tiny_store, work)


def test_a_user_is_forgotten_after_what_was_asked_before_and_before_what_comes_after(
    tiny_store: Path, release: LoadedRelease
) -> None:
    async def work(server: Server) -> None:
        await server.ask(Load(0, 0, release.id))
        calls: list[Message] = [ask(1, 0, user_id="ann"), Forget(2, 0, ("user", "ann")), ask(3, 0, user_id="ann")]
        assert [cast(Answer, reply).kept_bytes is not None for reply in await server.ask(*calls)] == [True, False, True]
        assert (server.states[-1].counters.misses, server.states[-1].counters.hits) == (2, 0)

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
        assert server.states[-1].counters.hits == 0
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
