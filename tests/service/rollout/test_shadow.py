"""Answered requests asked again of another release: only when nobody waits, and never at anyone's cost."""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from service.api.schemas import RecommendRequest
from service.histories.history import UserHistory
from service.ranking.recommend import Asked
from service.rollout.shadow import compare_forever
from service.rollout.variants import CANARY, CanaryPlan, Copy, Plan, ShadowPlan
from tests.service.conftest import NOW_MS, Following, TwoReleases

Follow = Callable[..., Following]


def answered(server: Following, variant: str, **body: object) -> Copy:
    release = server.service.others.get(server.service.variants.trial.release) if server.service.variants.trial else None
    release, asked = release or server.service.release, Asked(RecommendRequest(**body), UserHistory(), NOW_MS)  # type: ignore[arg-type]
    return Copy(release.id, variant, asked, server.run(server.service.rank(release, asked, math.inf)))


def compare_for(server: Following, seconds: float) -> None:
    async def run() -> None:
        task = asyncio.create_task(compare_forever(server.service))
        await asyncio.sleep(seconds)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    server.run(run())


def shadowed(two: TwoReleases, release: str) -> Plan:
    return Plan(shadow=ShadowPlan(release=release, percent=100))


@pytest.mark.parametrize(("shadow", "overlap"), [("first", 0.0), ("second", 1.0)])
def test_the_shadow_is_asked_what_was_answered(two: TwoReleases, follow: Follow, shadow: str, overlap: float) -> None:
    server = follow(two.store, two.second, shadowed(two, getattr(two, shadow)))
    for _ in range(3):
        server.service.variants.copy(answered(server, "default"))
    compare_for(server, 0.3)
    assert server.count("twotower_compared_total", kind="shadow", outcome="compared") == 3
    assert server.count("twotower_compared_overlap_sum", kind="shadow") == 3 * overlap
    assert server.count("twotower_compared_duration_seconds_count", kind="shadow") == 3


def test_a_shadow_that_fails_is_counted_and_the_next_is_asked(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.second, shadowed(two, two.first))
    good = answered(server, "default")
    bad = replace(good, asked=replace(good.asked, request=RecommendRequest(filter="no such thing")))
    for copy in (bad, good):
        server.service.variants.copy(copy)
    compare_for(server, 0.3)
    assert server.count("twotower_compared_total", kind="shadow", outcome="failed") == 1
    assert server.count("twotower_compared_total", kind="shadow", outcome="compared") == 1


def test_nothing_is_compared_while_requests_wait(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.second, shadowed(two, two.first))
    server.service.variants.copy(answered(server, "default"))

    async def crowd() -> None:
        engine = server.service.engine
        waiting = [asyncio.create_task(engine.submit(lambda: time.sleep(0.2), math.inf)) for _ in range(3)]
        await asyncio.sleep(0.05)
        comparing = asyncio.create_task(compare_forever(server.service))
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
        server.service.variants.copy(answered(server, CANARY))
    compare_for(server, 0.5)
    assert server.service.variants.trial is not None
    assert server.service.variants.trial.overlaps == [0.0] * 20
    server.run(server.follower.judge(time.monotonic()))
    assert server.follower.quarantined == {two.second: "overlap"}
