"""Servers mark the releases that their plan names, so that a clean-up leaves them."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from service.rollout import pinned
from service.rollout.pinned import keep_marked
from service.rollout.plan import Arm, Plan
from twotower.artefacts.retention import named
from twotower.artefacts.store import LocalStore
from twotower.errors import StoreError

OLD = "release-00000000000a"
HALVES = Plan(arms=(Arm(name="a", percent=50), Arm(name="b", percent=50, release=OLD)))


def keep_for(store: LocalStore, plan: Plan, seconds: float) -> None:
    async def run() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await keep_marked(store, plan)

    asyncio.run(run())


def test_the_releases_of_the_plan_are_marked_in_the_store(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    keep_for(store, HALVES, 0.2)
    assert named(store) == {OLD}


def test_without_named_releases_nothing_is_written(tmp_path: Path) -> None:
    keep_for(LocalStore(tmp_path), Plan(), 5.0)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_takes_no_marks_is_tried_again_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []

    def refuse(*_: object) -> None:
        tried.append(1)
        raise StoreError("the store is read-only")

    monkeypatch.setattr(pinned, "mark_named", refuse)
    monkeypatch.setattr(pinned, "MARK_EVERY_S", 0.01)
    keep_for(LocalStore(tmp_path), HALVES, 0.3)
    assert len(tried) > 1
    assert [record.getMessage() for record in caplog.records] == [
        "releases of the plan cannot be marked, give it to `releases gc --variants`: the store is read-only"
    ]
