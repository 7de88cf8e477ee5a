"""Answered requests asked again of another release: only when nobody waits, and never at anyone's cost."""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from service.api.schemas import Recommended, RecommendRequest
from service.histories.history import UserHistory
from service.ranking.rules import Ranking
from service.ranking.user_request import UserRequest
from service.rollout.plan import CANARY, CanaryPlan, Plan, ShadowPlan
from service.rollout.served import Chosen
from service.rollout.shadow import MAX_WAITING, overlap
from tests.service.conftest import NOW_MS, Following, TwoReleases

Follow = Callable[..., Following]


def answered(server: Following, variant: str, **body: Any) -> tuple[Chosen, UserRequest[RecommendRequest], Ranking]:
    now = server.served.now
    release = now.others[now.trial.release] if now.trial else now.current
    user_request = UserRequest(RecommendRequest(**body), UserHistory(), NOW_MS)
    return Chosen(release, variant), user_request, server.run(server.calls.recommend_aside(release, user_request))


def compare_for(server: Following, seconds: float) -> None:
    async def run() -> None:
        task = asyncio.create_task(server.comparisons.run_forever())
        await asyncio.sleep(seconds)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    server.run(run())


def shadowed(two: TwoReleases, release: str) -> Plan:
    return Plan(shadow=ShadowPlan(release=release, percent=100))


@pytest.mark.parametrize(("shadow", "share"), [("first", 0.0), ("second", 1.0)])
def test_the_shadow_is_asked_what_was_answered(two: TwoReleases, follow: Follow, shadow: str, share: float) -> None:
    server = follow(two.store, two.second, shadowed(two, getattr(two, shadow)))
    for _ in range(3):
        server.comparisons.note(*answered(server, "default"))
    compare_for(server, 0.3)
    assert server.count("twotower_compared_total", kind="shadow", outcome="compared") == 3
    assert server.count("twotower_compared_overlap_sum", kind="shadow") == 3 * share
    assert server.count("twotower_compared_duration_seconds_count", kind="shadow") == 3


def test_a_shadow_that_fails_is_counted_and_the_next_is_asked(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.second, shadowed(two, two.first))
    chosen, good, ranking = answered(server, "default")
    bad = replace(good, request=RecommendRequest(filter="no such thing"))
    for user_request in (bad, good):
        server.comparisons.note(chosen, user_request, ranking)
    compare_for(server, 0.3)
    assert server.count("twotower_compared_total", kind="shadow", outcome="failed") == 1
    assert server.count("twotower_compared_total", kind="shadow", outcome="compared") == 1


def test_nothing_is_compared_while_requests_wait(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.second, shadowed(two, two.first))
    server.comparisons.note(*answered(server, "default"))

    async def crowd() -> None:
        engine = server.engine
        places = [engine.take_place(0, math.inf) for _ in range(3)]
        waiting = [asyncio.create_task(engine.submit(lambda: time.sleep(0.2), place)) for place in places]
        await asyncio.sleep(0.05)
        comparing = asyncio.create_task(server.comparisons.run_forever())
        await waiting[0]
        assert server.count("twotower_compared_total", kind="shadow", outcome="compared") == 0
        await waiting[2]
        await asyncio.sleep(0.2)
        comparing.cancel()

    server.run(crowd())
    assert server.count("twotower_compared_total", kind="shadow", outcome="compared") == 1


def test_answers_of_the_canary_are_compared_with_the_release_before(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.first, Plan(canary=CanaryPlan(percent=50, seconds=60, min_overlap=0.1)))
    assert server.look() == "trial"
    for _ in range(20):
        server.comparisons.note(*answered(server, CANARY))
    compare_for(server, 0.5)
    assert server.served.now.trial is not None
    assert server.served.now.trial.overlaps == [0.0] * 20
    server.run(server.follower.decide_trial(time.monotonic()))
    assert server.follower.quarantined == {two.second: "overlap"}


def test_a_sample_is_noted_for_the_shadow_and_every_answer_of_the_canary(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.first, Plan(shadow=ShadowPlan(release=two.second, percent=50)))
    chosen, user_request, ranking = answered(server, "default")
    for _ in range(40):
        server.comparisons.note(chosen, user_request, ranking)
    noted = len(server.comparisons)
    assert 5 < noted < 35
    server.comparisons.note(replace(chosen, variant=CANARY), user_request, ranking)
    assert len(server.comparisons) == noted + 1
    nothing = follow(two.store, two.first)
    nothing.comparisons.note(chosen, user_request, ranking)
    assert len(nothing.comparisons) == 0


def test_few_comparisons_wait_and_the_oldest_is_lost_first(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.first, shadowed(two, two.second))
    chosen, user_request, ranking = answered(server, "default")
    for number in range(MAX_WAITING + 5):
        server.comparisons.note(chosen, replace(user_request, now_ms=number), ranking)
    assert [noted.user_request.now_ms for noted in server.comparisons._waiting] == list(range(5, MAX_WAITING + 5))


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [("abc", "abc", 1), ("abcd", "cdef", 0.5), ("ab", "cd", 0), ("", "", 1), ("ab", "", 0), ("abcdefghijk", "abcdefghijl", 1)],
)
def test_overlap_is_of_the_first_ten_items(one: str, other: str, share: float) -> None:
    assert overlap(ranking(*one), ranking(*other)) == share


def ranking(*item_ids: str) -> Ranking:
    return Ranking([Recommended(item_id=item_id, score=1.0) for item_id in item_ids], 0, 0, [], [])
