import asyncio
import math
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
import pytest
from prometheus_client import CollectorRegistry

from service.api.errors import ApiError
from service.api.schemas import Event, RecommendRequest, SimilarRequest
from service.api.scores import ScoreRequest
from service.engine.admission import Admission
from service.engine.calls import ModelCalls
from service.engine.frames import Answer, Forget, Message, Setup, State
from service.engine.remote import ENDED, RemoteEngine
from service.engine.thread import MAX_PATIENT, Batched, Engine, Limits, Place
from service.histories.history import UserHistory
from service.ranking.recommend import recommend_many
from service.ranking.rules import Ranking
from service.ranking.user_request import UserRequest, cost_of, is_patient
from service.release.loaded import LoadedRelease
from service.release.loading import load_release
from service.states.cache import CacheCounters, UserCache, UserStates, forget_users
from service.states.memory import UserKey
from service.telemetry.deadlines import Deadlines
from service.telemetry.metrics import Metrics
from tests.service.conftest import NOW_MS, TwoReleases, recommend
from tests.service.faults.processes import children, load, serving, status_of, until
from twotower.artefacts.release import open_store, roll_back
from twotower.errors import IntegrityError, StoreError

T = TypeVar("T")
FORGET = partial(forget_users, cache=UserCache(0))
RECOMMEND = partial(recommend_many, cache=UserCache(0))  # as a server has it; the cache is not used here
Recommendation = UserRequest[RecommendRequest]
LIMITS = Limits(max_queued=8, max_wait_s=0.5)


def setup_of(store: Path) -> Setup:
    return Setup(str(store), None, 1, 32, 4096, 1 << 26, 0.0)


class Remote:
    """An engine's process and the release it answers from."""

    def __init__(self, store: Path) -> None:
        self.release, self.engine = load_release(store), RemoteEngine(setup_of(store), LIMITS)
        self.batches: list[tuple[int, int]] = []
        self.engine.on_batch = lambda requests, cost: self.batches.append((requests, cost))
        self.engine.start()
        self._runner = asyncio.Runner()
        self.run(lambda: self.engine.load(self.release))
        self.pid = self.engine._process.pid

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        async def wait() -> T:
            async with asyncio.timeout(20):
                return await work()

        return self._runner.run(wait())

    def ask(self, user: Recommendation, deadline_s: float = math.inf) -> "asyncio.Task[Ranking]":
        async def submit() -> Ranking:
            take = self.engine.take_patient_place if is_patient(user.request) else self.engine.take_place
            with take(cost_of(self.release, user, ()), deadline_s) as place:
                return await self.engine.submit_to(Batched(RECOMMEND, self.release), user, place)  # type: ignore[no-any-return]

        return asyncio.create_task(submit())

    def forget(self, key: UserKey) -> Any:
        place = self.engine.take_place(0, math.inf)
        return self.engine.submit_to(Batched(FORGET, self.release.users), key, place)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def close(self) -> None:
        self.run(self._close)
        self._runner.close()

    async def _close(self) -> None:
        self.engine.close()


@pytest.fixture(scope="module")
def remote(tiny_store: Path) -> Iterator[Remote]:
    remote = Remote(tiny_store)
    yield remote
    remote.close()


@pytest.fixture
def stopped(remote: Remote) -> Iterator[Remote]:
    """Its process stands still until the test lets it go on."""
    remote.signal(signal.SIGSTOP)
    yield remote
    remote.signal(signal.SIGCONT)


def asked(user_id: str, stored: UserHistory = UserHistory(), **body: Any) -> Recommendation:  # noqa: B008  # frozen
    return UserRequest(RecommendRequest(user_id=user_id, **body), stored, NOW_MS)


def codes(outcomes: Sequence[Any]) -> list[str]:
    return [outcome.code if isinstance(outcome, ApiError) else type(outcome).__name__ for outcome in outcomes]


async def turn() -> None:
    """Long enough for one frame to go there and another to come back."""
    await asyncio.sleep(0.05)


def test_its_answers_are_those_of_the_thread(remote: Remote, histories: dict[str, UserHistory]) -> None:
    users = sorted(histories)[:20]
    shapes: list[dict[str, Any]] = [
        {},
        {"filter": "price < 5", "num_results": 30},
        {"exclude_seen": True, "include_metadata": ["title", "price"]},
        {"explain": True, "num_results": 3},
        {"events": [Event(event_type="purchase", timestamp=NOW_MS - 1, item_id="item-7")]},
    ]
    requests = [asked(user, histories[user], **shapes[n % len(shapes)]) for n, user in enumerate(users)]

    async def ask() -> list[Ranking]:
        return [await remote.ask(one) for one in requests]

    ours = [recommend(remote.release, one.request, one.stored, one.now_ms) for one in requests]
    cold, warm = remote.run(ask), remote.run(ask)
    for mine, once, again in zip(ours, cold, warm, strict=True):
        assert once == mine
        assert [item.item_id for item in again.items] == [item.item_id for item in mine.items]
        assert [item.score for item in again.items] == pytest.approx([item.score for item in mine.items], abs=1e-4)


def calls_of(engine: Engine) -> ModelCalls:
    metrics = Metrics(CollectorRegistry())
    return ModelCalls(engine, Admission(engine, metrics), Deadlines(metrics, 10), UserCache(1 << 26))


def test_it_scores_and_finds_similar_items_as_the_thread_does(remote: Remote, histories: dict[str, UserHistory]) -> None:
    user = max(histories, key=lambda u: len(histories[u].window))
    theirs, thread = calls_of(remote.engine), Engine(1, LIMITS)
    ours = calls_of(thread)
    scoring = ScoreRequest(user_id=user, candidate_item_ids=["item-3", "item-7", "no such item"], target_event_type="view")
    similar = SimilarRequest(user_id=user, item_id="item-3", include_metadata=["title"], filter="price < 5")
    described = SimilarRequest(item={"title": "tea", "price": 2.5}, num_results=3)

    unknown = UserRequest(SimilarRequest(item_id="no such item"), UserHistory(), NOW_MS)

    async def ask(calls: ModelCalls, engine: Engine, release: LoadedRelease) -> list[Any]:
        def place() -> Place:
            return engine.take_place(32, math.inf)

        await calls.forget(release, ("user", user))
        scored = await calls.score(release, UserRequest(scoring, histories[user], NOW_MS), place())
        found = [
            await calls.similar(release, UserRequest(request, histories[user], NOW_MS), place())
            for request in (similar, described)
        ]
        with pytest.raises(ApiError) as refused:
            await calls.similar(release, unknown, place())
        return [scored, *found, (refused.value.code, refused.value.field)]

    async def both() -> tuple[list[Any], list[Any]]:
        thread.start()
        try:
            return await ask(theirs, remote.engine, remote.release), await ask(ours, thread, replace(remote.release))
        finally:
            thread.close()

    from_process, from_thread = remote.run(both)
    assert from_process == from_thread
    scores, like, _, error = from_thread
    assert (len(scores.items), scores.missing_item_ids, error) == (2, ["no such item"], ("not_found", "item_id"))
    assert scores.events_used == len(histories[user].window)
    assert len(like.items) == 10


def test_a_user_who_was_scored_is_known_when_recommendations_are_asked_for(
    remote: Remote, histories: dict[str, UserHistory]
) -> None:
    user, key = next((user, ("user", user)) for user in histories if ("user", user) not in remote.release.users)
    calls, scoring = calls_of(remote.engine), ScoreRequest(user_id=user, candidate_item_ids=["item-3"])

    async def ask() -> int:
        await turn()
        hits = remote.engine.cache.counters.hits
        await calls.score(remote.release, UserRequest(scoring, histories[user], NOW_MS), remote.engine.take_place(32, math.inf))
        assert key in remote.release.users
        await remote.ask(asked(user, histories[user]))
        await calls.forget(remote.release, key)
        assert key not in remote.release.users
        await turn()
        return remote.engine.cache.counters.hits - hits

    assert remote.run(ask) == 1


def test_only_so_many_requests_for_explanations_wait_and_they_delay_no_other(stopped: Remote) -> None:
    engine = stopped.engine

    async def ask() -> list[Any]:
        await asyncio.sleep(0)
        calls = [stopped.ask(asked(f"why-{n}", explain=True, num_results=1)) for n in range(MAX_PATIENT + 1)]
        await asyncio.sleep(0.05)
        assert [call.done() for call in calls] == [False] * MAX_PATIENT + [True]
        assert (engine.num_patient, engine.num_queued, engine.queued_cost, engine.wait_s) == (MAX_PATIENT, 0, 0, 0)
        stopped.signal(signal.SIGCONT)
        return codes(await asyncio.gather(*calls, return_exceptions=True))

    assert stopped.run(ask) == ["Ranking"] * MAX_PATIENT + ["overloaded"]


def test_what_is_asked_in_one_turn_of_the_loop_leaves_as_one_frame_and_is_answered_together(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.batches.clear()
    frames: list[int] = []
    write = remote.engine._connection._write

    def noted(messages: list[Message]) -> None:
        frames.append(len(messages))
        write(messages)

    monkeypatch.setattr(remote.engine._connection, "_write", noted)

    async def ask() -> None:
        await asyncio.gather(*(remote.ask(asked(f"turn-{n}")) for n in range(6)))
        await turn()

    remote.run(ask)
    assert frames == [6]
    assert sum(requests for requests, _ in remote.batches) == 6
    assert len(remote.batches) <= 2


def test_what_it_keeps_of_users_is_known_here(remote: Remote, histories: dict[str, UserHistory]) -> None:
    user = max(histories, key=lambda u: len(histories[u].window))
    one, key = asked(user, histories[user]), ("user", user)

    async def ask() -> list[tuple[bool, int, int]]:
        seen = []
        forget, ask = partial(remote.forget, key), partial(remote.ask, one)
        for call in (forget, ask, ask, forget):
            hits, cost = remote.engine.cache.counters.hits, cost_of(remote.release, one, ())
            await call()
            await turn()
            seen.append((key in remote.release.users, cost, remote.engine.cache.counters.hits - hits))
        return seen

    full, little = 32 + len(one.stored.window), 32
    before = remote.release.users.num_bytes
    assert remote.run(ask)[1:] == [(True, full, 0), (True, little, 1), (False, little, 0)]
    assert remote.release.users.num_bytes <= before


def test_what_it_keeps_of_users_goes_on_to_the_next_release(remote: Remote, histories: dict[str, UserHistory]) -> None:
    user = max(histories, key=lambda u: len(histories[u].window))
    one, key, before = asked(user, histories[user]), ("user", user), remote.release

    async def ask() -> tuple[int, int, int]:
        await remote.ask(one)
        remote.release = replace(before)
        await remote.engine.load(remote.release)
        remote.engine.hand_over(remote.release, before, lambda _heir, _before: None)
        assert (key in remote.release.users, key in before.users) == (True, False)
        misses = remote.engine.cache.counters.misses
        cost = cost_of(remote.release, one, ())
        await remote.ask(one)
        await turn()
        remote.release = before
        return cost, remote.engine.cache.counters.misses - misses, remote.engine.cache.counters.carried

    assert remote.run(ask) == (32, 0, 1)


def test_evictions_are_those_that_the_process_counts(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = msgspec.structs.replace(setup_of(tiny_store), user_cache_bytes=150)
    engine, users = RemoteEngine(setup, LIMITS), UserStates()

    async def call(*_: Any) -> Answer:
        return Answer(0, kept_bytes=100)

    async def ask() -> None:
        for name in ("ann", "bob"):
            await engine.submit_to(Batched(FORGET, users), ("user", name), engine.take_place(0, math.inf))

    monkeypatch.setattr(engine, "_call", call)
    engine._releases[users] = 0
    engine._receive(State(0.0, 0.0, 0.0, [], CacheCounters(evictions=1, num_bytes=100)))
    asyncio.run(ask())
    assert [("user", name) in users for name in ("ann", "bob")] == [False, True]
    assert engine.cache.counters == CacheCounters(evictions=1, num_bytes=100)


def test_who_is_late_is_told_so(remote: Remote) -> None:
    async def ask() -> list[Any]:
        calls = [remote.ask(asked("late"), time.monotonic() + s) for s in (-1, 10)]
        return list(await asyncio.gather(*calls, return_exceptions=True))

    assert codes(remote.run(ask)) == ["deadline_exceeded", "Ranking"]


def test_its_time_goes_on_while_the_process_stands_still(stopped: Remote) -> None:
    async def ask() -> list[Any]:
        call = stopped.ask(asked("late"), time.monotonic() + 0.2)
        await asyncio.sleep(0.3)
        stopped.signal(signal.SIGCONT)
        return list(await asyncio.gather(call, return_exceptions=True))

    assert codes(stopped.run(ask)) == ["deadline_exceeded"]


def test_who_is_cancelled_is_not_worked_for(stopped: Remote) -> None:
    stopped.batches.clear()

    async def ask() -> None:
        calls = [stopped.ask(asked(f"cancelled-{n}")) for n in range(3)]
        await turn()
        calls[1].cancel()
        await asyncio.wait([calls[1]])
        assert stopped.engine.queued_cost == 64
        stopped.signal(signal.SIGCONT)
        await asyncio.gather(calls[0], calls[2])
        await turn()

    stopped.run(ask)
    assert sum(requests for requests, _ in stopped.batches) == 2
    assert stopped.engine.queued_cost == 0


def test_more_than_may_wait_are_refused_at_once(stopped: Remote) -> None:
    async def ask() -> list[Any]:
        calls = [stopped.ask(asked(f"many-{n}")) for n in range(LIMITS.max_queued + 2)]
        await asyncio.sleep(0)
        refused = [call.done() for call in calls]
        stopped.signal(signal.SIGCONT)
        return [refused, codes(await asyncio.gather(*calls, return_exceptions=True))]

    refused, outcomes = stopped.run(ask)
    assert refused == [False] * LIMITS.max_queued + [True] * 2
    assert outcomes == ["Ranking"] * LIMITS.max_queued + ["overloaded"] * 2


def test_how_long_others_wait_is_foreseen_by_the_pace_that_it_reports(stopped: Remote) -> None:
    engine = stopped.engine

    async def ask() -> None:
        assert engine.pace[0] > 0
        call = stopped.ask(asked("first"))
        await asyncio.sleep(0)
        assert engine.wait_s == pytest.approx(32 * sum(engine.pace))
        assert engine.has_room(32, math.inf)
        assert not engine.has_room(32, time.monotonic() + engine.wait_s / 2)
        with engine.take_place(10**9, math.inf), pytest.raises(ApiError, match="try again"):
            engine.take_place(1, math.inf)
        await asyncio.sleep(LIMITS.max_wait_s + 0.1)
        assert not engine.has_room(0, math.inf), "the first has waited for too long"
        stopped.signal(signal.SIGCONT)
        await call

    stopped.run(ask)


def test_it_is_in_trouble_when_it_stands_still(stopped: Remote) -> None:
    async def wait() -> None:
        await asyncio.sleep(0.8)
        assert "has not moved for" in str(stopped.engine.trouble(0.7))
        stopped.signal(signal.SIGCONT)
        await asyncio.sleep(0.4)
        assert stopped.engine.trouble(0.7) is None

    stopped.run(wait)


def test_a_signal_that_ends_its_server_does_not_end_it_first(remote: Remote) -> None:
    async def ask() -> Ranking:
        remote.signal(signal.SIGTERM)
        remote.signal(signal.SIGINT)
        return await remote.ask(asked("ann"))

    assert len(remote.run(ask).items) == 10


def test_a_release_is_held_there_as_long_as_it_is_here(remote: Remote) -> None:
    async def ask() -> None:
        again = replace(remote.release)  # as the follower keeps the one before
        await remote.engine.load(again)
        call = remote.engine.submit_to(Batched(RECOMMEND, again), asked("ann"), remote.engine.take_place(32, math.inf))
        numbers = set(remote.engine._releases.values())
        assert len(numbers) == 2
        assert len((await call).items) == 10
        del again, call
        await turn()
        assert len(remote.engine._releases) == 1
        (gone,) = numbers - set(remote.engine._releases.values())
        with pytest.raises(RuntimeError, match=f"KeyError: {gone}"):
            await remote.engine._call(Forget(999_999, gone, ("user", "ann")), 999_999)

    remote.run(ask)


def test_a_release_that_the_process_cannot_load_is_refused_with_its_reason(remote: Remote) -> None:
    unknown = replace(remote.release, id="release-000000000000")
    with pytest.raises((IntegrityError, StoreError)):
        remote.run(lambda: remote.engine.load(unknown))
    assert len(remote.run(lambda: remote.ask(asked("ann"))).items) == 10


def test_a_process_that_ends_before_it_answers_is_not_waited_for(tiny_store: Path, release: LoadedRelease) -> None:
    engine = RemoteEngine(setup_of(tiny_store), LIMITS)

    async def run() -> None:
        engine.start()
        assert engine.trouble(10) is None
        engine._process.kill()
        for _ in range(2):
            with pytest.raises(ApiError, match=ENDED) as refused:
                await engine.load(release)
            assert refused.value.status == 503
        assert engine.trouble(10) == ENDED
        engine.close()

    asyncio.run(run())


def test_a_server_answers_by_its_process_swaps_releases_with_it_and_ends_when_it_is_killed(
    two: TwoReleases, tmp_path: Path
) -> None:
    async def run() -> None:
        with serving(two.store, tmp_path / "h.db", "--engine", "process", poll_s=0.1) as server:
            (pid,) = children(server.process.pid)
            async with load(server.address, timeout_ms=4000) as clients, httpx.AsyncClient(base_url=server.address) as http:
                event = {"user_id": "ann", "item_id": "item-300", "event_type": "view", "timestamp": 10**12}
                assert (await http.post("/v1/events", json={"events": [event]})).status_code == 202
                scored = await http.post("/v1/score", json={"user_id": "ann", "candidate_item_ids": ["item-300"]})
                assert scored.json()["events_used"] == 1
                answers = [(await http.post("/v1/recommend", json={"user_id": "ann"})).json() for _ in range(2)]
                assert [answer["events_used"] for answer in answers] == [1, 1]
                assert (await http.delete("/v1/users/ann")).json()["deleted_events"] == 1
                assert (await http.put("/v1/items", json={"items": [{"item_id": "new"}]})).status_code == 501

                roll_back(open_store(two.store), None)
                while answers[-1]["release"] == two.second:
                    answers.append((await http.post("/v1/recommend", json={})).json())
                    await asyncio.sleep(0.02)
                new = {item["item_id"] for item in answers[-1]["items"]}
                assert len(new) == 10
                assert all(new.isdisjoint(item["item_id"] for item in answer["items"]) for answer in answers[:-1])
                await asyncio.sleep(0.5)
                assert set(clients.seen) == {200}
                metrics = (await http.get("/metrics")).text
                assert 'twotower_user_cache{outcome="hits"}' in metrics
                assert 'twotower_user_cache{outcome="hits"} 0.0' not in metrics

                os.kill(pid, signal.SIGKILL)
                await asyncio.to_thread(until, lambda: status_of(server.address + "/readyz") != 200, 1.0)
                assert await asyncio.to_thread(server.process.wait, 8) == 1
            assert clients.seen[503] > 0
            assert set(clients.seen) <= {200, 503, 0}  # 0: nobody listens any more
            assert clients.slowest_s < 4

    asyncio.run(run())
