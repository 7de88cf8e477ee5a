"""A server goes where the pointer goes, and stays where it is when it cannot."""

import asyncio
import gc
import math
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from service.api.errors import ApiError
from service.engine.thread import Batched, Engine, Place
from service.release.loaded import LoadedRelease
from service.rollout.follow import reason_of
from service.rollout.plan import CANARY, CanaryPlan, Plan
from tests.service.conftest import Following, TwoReleases
from twotower.artefacts.release import (
    VECTORS,
    Candidate,
    activate,
    open_store,
    propose,
    read_pointer,
    release_path,
    roll_back,
    withdraw,
    write_pointer,
)
from twotower.errors import EnvironmentProblem, FormatError, IntegrityError, ReleaseMismatch, StoreError

Follow = Callable[..., Following]
TRIAL = Plan(canary=CanaryPlan(percent=50, seconds=60, min_requests=10))


def point(two: TwoReleases, release: str) -> None:
    write_pointer(two.store, release, "a test")


def damage(two: TwoReleases, release: str) -> bytes:
    file = release_path(two.store, release) / VECTORS
    content = file.read_bytes()
    file.unlink()  # whoever has it mapped keeps what it was
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return content


def mend(two: TwoReleases, release: str, content: bytes) -> None:
    (release_path(two.store, release) / VECTORS).write_bytes(content)


def test_a_new_pointer_is_followed_and_the_release_before_is_kept(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.first)
    before = server.answer()
    assert server.look() == "swapped"
    after = server.answer()
    assert (before[0], after[0]) == (two.first, two.second)
    assert not set(before[2]) & set(after[2])
    assert server.follower.previous is not None
    assert server.follower.previous.id == two.first
    assert server.count("twotower_release_swaps_total", result="swapped") == 1
    space = server.served.current.info.vector_space_id
    assert server.count("twotower_release_info", release=two.second, vector_space=space) == 1
    assert server.count("twotower_release_info", release=two.first, vector_space=space) == 0
    written = open_store(two.store).releases()[two.second]
    assert server.count("twotower_release_built_timestamp_seconds") == written


def test_a_pointer_that_names_what_is_served_changes_nothing(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.second)
    served = server.served.current
    assert [server.look(), server.look()] == ["unchanged", "unchanged"]
    point(two, two.second)
    assert server.look() == "unchanged"
    assert server.served.current is served
    assert server.follower.previous is None


def test_going_back_one_step_loads_nothing(two: TwoReleases, follow: Follow, monkeypatch: pytest.MonkeyPatch) -> None:
    server = follow(two.store, two.first)
    server.look()
    monkeypatch.setattr("service.rollout.loading.keep", None)
    monkeypatch.setattr("service.rollout.loading.read_release", None)
    roll_back(open_store(two.store), None)
    assert server.look() == "swapped"
    assert server.answer()[0] == two.first
    activate(open_store(two.store), two.second, None)
    assert server.look() == "swapped"
    assert server.answer()[0] == two.second


def test_what_must_not_be_served_is_not_looked_at_again_until_the_pointer_moves(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.first)
    content = damage(two, two.second)
    assert [server.look(), server.look()] == ["refused", "unchanged"]
    assert server.follower.quarantined == {two.second: "integrity"}
    assert server.follower.named == two.second
    assert server.count("twotower_release_load_failures_total", reason="integrity") == 1
    assert server.answer()[0] == two.first
    mend(two, two.second, content)
    assert server.look() == "unchanged", "it was judged"
    point(two, two.second)
    assert server.look() == "swapped"
    assert server.follower.quarantined == {}


def test_what_may_be_better_the_next_time_is_tried_again(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.first)
    aside = two.store.rename(two.store.with_name("aside"))
    assert [server.look(), server.look()] == ["unavailable", "unavailable"]
    assert server.count("twotower_release_load_failures_total", reason="store") == 2
    aside.rename(two.store)
    assert server.look() == "swapped"


def test_a_pointer_of_before_is_never_followed(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.first)
    server.look()
    for path in (two.store / "pointers/000000000002.json", two.store / "CURRENT"):
        path.unlink()
    assert read_pointer(two.store).release == two.first
    assert server.look() == "unavailable"
    assert server.answer()[0] == two.second


def test_a_release_under_another_releases_name_is_refused(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.first)
    release_path(two.store, two.second).rename(two.store / "second")
    release_path(two.store, two.first).rename(two.store / "releases" / two.second)
    assert server.look() == "refused"
    assert server.follower.quarantined == {two.second: "integrity"}


def test_the_release_before_is_forgotten_when_its_time_is_over(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.first, keep_old_s=0.2)
    towers = weakref.ref(server.served.current.towers.contextualizer)
    gc.disable()  # nothing of a release may need the collector, which stops everyone
    try:
        server.answer()
        server.look()
        assert towers() is not None
        server.run(asyncio.sleep(0.3))
        server.answer()  # the engine's thread lets go of its last request with the next
        assert server.follower.previous is None
        assert towers() is None
    finally:
        gc.enable()


class Telling(Engine):
    """An engine that must be told of a release before it is asked."""

    def __init__(self) -> None:
        super().__init__(1)
        self.told: list[int] = []

    async def load(self, release: LoadedRelease) -> None:
        self.told.append(id(release.users))

    async def submit_to(self, batched: Batched, argument: Any, place: Place) -> Any:
        assert id(batched.of.users) in self.told
        return await super().submit_to(batched, argument, place)


def test_the_engine_is_told_of_every_release_before_it_is_asked(two: TwoReleases, follow: Follow) -> None:
    engine = Telling()
    server = follow(two.store, two.first, TRIAL, on=engine)
    assert server.look() == "trial"
    server.run(server.follower.decide_trial(time.monotonic() + 61))
    assert server.answer()[0] == two.second
    roll_back(open_store(two.store), None)
    assert server.look() == "swapped"
    assert server.answer()[0] == two.first
    assert server.follower.previous is not None
    assert engine.told[-1] == id(server.follower.previous.users), "to go back to it is instant there too"


def test_a_busy_engine_is_waited_for(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.first)

    async def crowd() -> str:
        engine = server.engine
        places = [engine.take_place(0, math.inf) for _ in range(64)]
        waiting = [asyncio.create_task(engine.submit(lambda: time.sleep(0.005), place)) for place in places]
        await asyncio.sleep(0)
        outcome = await server.follower.look()
        await asyncio.gather(*waiting)
        return outcome

    assert server.run(crowd()) == "swapped"


def test_a_new_release_on_trial_answers_its_share_until_it_is_promoted(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.first, TRIAL)
    assert server.look() == "trial"
    answers = {user: server.answer(user_id=user) for user in map(str, range(40))}
    on_trial = {user for user, (release, variant, _) in answers.items() if variant == CANARY}
    assert 5 < len(on_trial) < 35
    assert all((answers[user][0] == two.second) == (user in on_trial) for user in answers)
    assert server.look() == "unchanged"
    server.run(server.follower.decide_trial(time.monotonic()))
    assert server.served.current.id == two.first
    server.run(server.follower.decide_trial(time.monotonic() + 61))
    assert (server.served.current.id, server.served.now.others, server.served.now.trial) == (two.second, {}, None)
    assert server.count("twotower_release_swaps_total", result="promoted") == 1


def test_a_new_release_that_breaks_a_limit_on_trial_is_quarantined(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.first, TRIAL)
    server.look()
    assert server.served.now.trial is not None
    for _ in range(10):
        server.served.now.trial.new.add(failed=True, latency_s=0.01)
    server.run(server.follower.decide_trial(time.monotonic()))
    assert (server.served.current.id, server.served.now.others) == (two.first, {})
    assert server.follower.quarantined == {two.second: "errors"}
    assert server.look() == "unchanged"
    point(two, two.second)
    assert server.look() == "trial", "someone thought it over"
    server.run(server.follower.decide_trial(time.monotonic() + 61))
    assert server.served.current.id == two.second
    assert server.follower.quarantined == {}, "what is served is not in quarantine"


def test_a_rollback_during_a_trial_ends_it_and_what_was_served_before_needs_none(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.first, TRIAL)
    server.look()
    roll_back(open_store(two.store), None)
    assert server.look() == "unchanged"
    assert (server.served.now.trial, server.served.now.others) == (None, {})
    point(two, two.second)
    server.look()
    server.run(server.follower.decide_trial(time.monotonic() + 61))
    roll_back(open_store(two.store), None)
    assert server.look() == "swapped"


@pytest.mark.parametrize(
    ("error", "reason", "final"),
    [
        (IntegrityError(), "integrity", True),
        (FormatError(), "format", True),
        (ReleaseMismatch(), "mismatch", True),
        (EnvironmentProblem(), "environment", False),
        (MemoryError(), "memory", False),
        (StoreError(), "store", False),
        (OSError(), "store", False),
        (ApiError("delta_unavailable", "x"), "delta_unavailable", False),
        (ZeroDivisionError(), "internal", True),
    ],
)
def test_every_error_has_a_reason(error: Exception, reason: str, final: bool) -> None:
    assert reason_of(error) == (reason, final)


def test_polls_spread_and_grow_rarer_while_the_store_fails(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.first)
    server.follower._poll_s = 10.0
    calm, failing = ([server.follower._pause(n) for _ in range(100)] for n in (0, 3))
    assert 7.5 <= min(calm) < 9 < 11 < max(calm) <= 12.5
    assert 60 <= min(failing) < max(failing) <= 100
    assert server.follower._pause(1000) <= 400


def offer(two: TwoReleases, release: str) -> None:
    propose(open_store(two.store), Candidate(release=release, percent=50, seconds=60), None)


def test_a_proposed_release_answers_its_share_and_waits_for_the_pointer(two: TwoReleases, follow: Follow) -> None:
    """No plan of variants is needed: the share and the length come with the pointer."""
    server = follow(two.store, two.second)
    offer(two, two.first)
    assert [server.look(), server.look()] == ["trial", "unchanged"]
    assert {server.answer(user_id=user)[:2] for user in map(str, range(40))} == {
        (two.second, "default"),
        (two.first, CANARY),
    }
    trial = server.served.now.trial
    assert trial is not None
    server.run(server.follower.decide_trial(time.monotonic() + 59))
    assert not trial.passed
    for _ in range(2):
        server.run(server.follower.decide_trial(time.monotonic() + 61))
    assert (trial.passed, server.served.current.id) == (True, two.second), "only the pointer promotes it"
    assert server.count("twotower_release_swaps_total", result="passed") == 1
    activate(open_store(two.store), two.first, None)
    server.look()
    server.run(server.follower.decide_trial(time.monotonic() + 61))
    assert (server.served.current.id, server.served.now.trial) == (two.first, None)


def test_a_proposed_release_that_breaks_a_limit_answers_nobody(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.second)
    offer(two, two.first)
    server.look()
    trial = server.served.now.trial
    assert trial is not None
    for number in range(100):
        trial.new.add(failed=False, latency_s=0.01)
        if number < 2:
            trial.note_degraded(CANARY)
    server.run(server.follower.decide_trial(time.monotonic()))
    assert (server.served.current.id, server.served.now.others) == (two.second, {})
    assert server.follower.quarantined == {two.first: "degraded"}
    assert server.look() == "unchanged"
    offer(two, two.first)
    assert server.look() == "trial", "someone thought it over"
    assert server.follower.quarantined == {}


def test_a_withdrawn_release_answers_nobody(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.second)
    offer(two, two.first)
    server.look()
    withdraw(open_store(two.store))
    assert server.look() == "unchanged"
    assert (server.served.now.trial, server.served.now.others) == (None, {})


def test_a_proposed_release_that_is_damaged_is_refused(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.second)
    offer(two, two.first)
    damage(two, two.first)
    assert [server.look(), server.look()] == ["refused", "unchanged"]
    assert server.follower.quarantined == {two.first: "integrity"}
    assert server.answer()[0] == two.second


def test_a_server_that_lags_behind_follows_and_tries_in_one_look(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.first)
    offer(two, two.first)
    assert server.look() == "swapped"
    assert server.served.current.id == two.second
    assert server.served.now.trial is not None
    assert server.served.now.trial.release == two.first
