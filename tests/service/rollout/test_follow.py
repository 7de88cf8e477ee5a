"""A server goes where the pointer goes, and stays where it is when it cannot."""

import asyncio
import gc
import math
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.api.errors import ApiError
from service.engine.thread import Batched, Engine
from service.release.loaded import LoadedRelease
from service.rollout.follow import reason_of
from service.rollout.variants import CANARY, Arm, CanaryPlan, Plan
from service.routes.items import ItemRoutes
from tests.service.conftest import Following, TwoReleases
from twotower.artefacts.item_changes import Changed, DeltaStore
from twotower.artefacts.release import VECTORS, activate, open_store, read_pointer, release_path, roll_back, write_pointer
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
    assert server.follower.kept is not None
    assert server.follower.kept.id == two.first
    assert server.count("twotower_release_swaps_total", result="swapped") == 1
    space = server.service.release.info.vector_space_id
    assert server.count("twotower_release_info", release=two.second, vector_space=space) == 1
    assert server.count("twotower_release_info", release=two.first, vector_space=space) == 0
    written = open_store(two.store).releases()[two.second]
    assert server.count("twotower_release_built_timestamp_seconds") == written


def test_a_pointer_that_names_what_is_served_changes_nothing(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.second)
    served = server.service.release
    assert [server.look(), server.look()] == ["unchanged", "unchanged"]
    point(two, two.second)
    assert server.look() == "unchanged"
    assert server.service.release is served
    assert server.follower.kept is None


def test_going_back_one_step_loads_nothing(two: TwoReleases, follow: Follow, monkeypatch: pytest.MonkeyPatch) -> None:
    server = follow(two.store, two.first)
    server.look()
    monkeypatch.setattr("service.rollout.follow.keep", None)
    monkeypatch.setattr("service.rollout.follow.read_release", None)
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
    towers = weakref.ref(server.service.release.towers.contextualizer)
    gc.disable()  # nothing of a release may need the collector, which stops everyone
    try:
        server.answer()
        server.look()
        assert towers() is not None
        server.run(asyncio.sleep(0.3))
        server.answer()  # the engine's thread lets go of its last request with the next
        assert server.follower.kept is None
        assert towers() is None
    finally:
        gc.enable()


def test_changed_items_are_served_by_the_next_release_too(two: TwoReleases, follow: Follow, tmp_path: Path) -> None:
    server = follow(two.store, two.first, delta=DeltaStore(tmp_path / "delta.db"))
    gone = follow(two.store, two.second).answer()[2][0]
    changes = server.service.changes
    assert changes is not None
    server.run(ItemRoutes(server.service).put_all(changes, [msgspec.Raw(b'{"item_id": "new", "title": "olives"}')]))
    server.run(ItemRoutes(server.service).delete_all(changes, [gone]))
    assert server.look() == "swapped"
    _, _, items = server.answer(num_results=500)
    assert "new" in items
    assert gone not in items
    assert len(items) == 200
    server.run(ItemRoutes(server.service).delete_all(changes, ["new"]))
    assert "new" not in server.answer(num_results=500)[2]
    roll_back(open_store(two.store), None)
    assert server.look() == "swapped"
    assert "new" not in server.answer(num_results=500)[2], "deleted while the other release was served"


def test_an_item_that_is_put_while_releases_change_is_in_the_one_that_is_served(
    two: TwoReleases, follow: Follow, tmp_path: Path
) -> None:
    server = follow(two.store, two.first, delta=DeltaStore(tmp_path / "delta.db"))
    changes = server.service.changes
    assert changes is not None

    async def put_all(looked: "asyncio.Task[str]") -> int:
        for number in range(1000):
            await ItemRoutes(server.service).put_all(changes, [msgspec.Raw(f'{{"item_id": "new-{number}"}}'.encode())])
            if looked.done() and number > 10:
                return number + 1
            await asyncio.sleep(0.02)
        raise AssertionError("never looked")

    async def both() -> int:
        return await put_all(asyncio.create_task(server.follower.look()))

    num_put = server.run(both())
    release, _, items = server.answer(num_results=500)
    assert release == two.second
    assert {f"new-{number}" for number in range(num_put)} <= set(items)


def test_a_trial_that_ends_while_an_item_is_put_does_not_come_back(
    two: TwoReleases, follow: Follow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = follow(two.store, two.first, plan=TRIAL, delta=DeltaStore(tmp_path / "delta.db"))
    assert server.look() == "trial"
    service, changes = server.service, server.service.changes
    assert changes is not None
    write = changes.write

    async def write_while_it_ends(items: Changed) -> None:
        service.others, service.variants.trial = {}, None
        await write(items)

    monkeypatch.setattr(changes, "write", write_while_it_ends)
    server.run(ItemRoutes(service).put_all(changes, [msgspec.Raw(b'{"item_id": "new"}')]))
    assert service.others == {}
    assert "new" in service.release.rows


class Telling(Engine):
    """An engine that must be told of a release before it is asked."""

    def __init__(self) -> None:
        super().__init__(1)
        self.told: list[int] = []

    async def load(self, release: LoadedRelease) -> None:
        self.told.append(id(release.users))

    async def submit_to(self, batched: Batched, argument: Any, cost: int, deadline_s: float) -> Any:
        assert id(batched.of.users) in self.told
        return await super().submit_to(batched, argument, cost, deadline_s)


def test_the_engine_is_told_of_every_release_before_it_is_asked(two: TwoReleases, follow: Follow) -> None:
    engine = Telling()
    server = follow(two.store, two.first, TRIAL, on=engine)
    assert server.look() == "trial"
    server.run(server.follower.judge(time.monotonic() + 61))
    assert server.answer()[0] == two.second
    roll_back(open_store(two.store), None)
    assert server.look() == "swapped"
    assert server.answer()[0] == two.first
    assert server.follower.kept is not None
    assert engine.told[-1] == id(server.follower.kept.users), "to go back to it is instant there too"


def test_a_busy_engine_is_waited_for(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.first)

    async def crowd() -> str:
        waiting = [asyncio.create_task(server.service.engine.submit(lambda: time.sleep(0.005), math.inf)) for _ in range(64)]
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
    server.run(server.follower.judge(time.monotonic()))
    assert server.service.release.id == two.first
    server.run(server.follower.judge(time.monotonic() + 61))
    assert (server.service.release.id, server.service.others, server.service.variants.trial) == (two.second, {}, None)
    assert server.count("twotower_release_swaps_total", result="promoted") == 1


def test_a_new_release_that_breaks_a_limit_on_trial_is_quarantined(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.first, TRIAL)
    server.look()
    assert server.service.variants.trial is not None
    for _ in range(10):
        server.service.variants.trial.new.add(failed=True, latency_s=0.01)
    server.run(server.follower.judge(time.monotonic()))
    assert (server.service.release.id, server.service.others) == (two.first, {})
    assert server.follower.quarantined == {two.second: "errors"}
    assert server.look() == "unchanged"
    point(two, two.second)
    assert server.look() == "trial", "someone thought it over"


def test_a_rollback_during_a_trial_ends_it_and_what_was_served_before_needs_none(two: TwoReleases, follow: Follow) -> None:
    server = follow(two.store, two.first, TRIAL)
    server.look()
    roll_back(open_store(two.store), None)
    assert server.look() == "unchanged"
    assert (server.service.variants.trial, server.service.others) == (None, {})
    point(two, two.second)
    server.look()
    server.run(server.follower.judge(time.monotonic() + 61))
    roll_back(open_store(two.store), None)
    assert server.look() == "swapped"


def test_a_release_that_an_arm_names_stays_though_the_pointer_leaves_it(two: TwoReleases, follow: Follow) -> None:
    plan = Plan(arms=(Arm(name="new", percent=50), Arm(name="old", percent=50, release=two.first)))
    server = follow(two.store, two.first, plan)
    assert server.service.others == {}, "one release is in memory once"
    server.look()
    by_variant = {server.answer(user_id=user)[:2] for user in map(str, range(40))}
    assert by_variant == {(two.second, "new"), (two.first, "old")}
    roll_back(open_store(two.store), None)
    assert server.look() == "swapped"
    assert server.service.others == {}


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
    server.service.settings = server.service.settings.model_copy(update={"poll_s": 10.0})
    calm, failing = ([server.follower._pause(n) for _ in range(100)] for n in (0, 3))
    assert 7.5 <= min(calm) < 9 < 11 < max(calm) <= 12.5
    assert 60 <= min(failing) < max(failing) <= 100
    assert server.follower._pause(1000) <= 400
