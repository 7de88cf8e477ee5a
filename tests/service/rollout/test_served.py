"""One owner of the releases that answer: who gets which, and no request sees half a swap."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.api.schemas import Event, RecommendRequest, SimilarRequest
from service.release.changes import ItemChanges
from service.release.loaded import LoadedRelease
from service.rollout.plan import CANARY, Arm, CanaryPlan, Plan
from service.rollout.served import ServedReleases, Snapshot
from service.rollout.trial import Trial
from tests.service.conftest import Following, TwoReleases
from twotower.artefacts.item_changes import Changed, DeltaStore

Follow = Callable[..., Following]
OLD, NEW, THIRD = "release-00000000000a", "release-00000000000b", "release-00000000000c"
HALVES = Plan(arms=(Arm(name="a", percent=50), Arm(name="b", percent=50, release=OLD)))
CANARY_PLAN = CanaryPlan(percent=20, seconds=600, min_requests=10)


def named(release: LoadedRelease, name: str) -> LoadedRelease:
    return replace(release, id=name)


async def on_this_thread(work: Callable[[], LoadedRelease]) -> LoadedRelease:
    return work()


def test_without_a_plan_every_request_gets_the_current_release(release: LoadedRelease) -> None:
    chosen = ServedReleases(release, Plan()).choose(RecommendRequest(user_id="ann"))
    assert (chosen.release, chosen.variant, chosen.trial) == (release, "default", None)


def test_a_user_stays_in_an_arm_and_so_does_a_session_without_a_user(release: LoadedRelease) -> None:
    def variants(**body: Any) -> set[str]:
        served = ServedReleases(release, HALVES, others={OLD: named(release, OLD)})
        return {served.choose(RecommendRequest(**body)).variant for _ in range(100)}

    assert len(variants(user_id="ann")) == len(variants(session_id="s")) == 1
    assert variants(user_id="ann", session_id="s") == variants(user_id="ann", session_id="t") == variants(user_id="ann")
    assert variants() == {"a", "b"}


def test_items_like_another_come_from_the_current_release_unless_a_user_asks(release: LoadedRelease) -> None:
    served = ServedReleases(release, HALVES, others={OLD: named(release, OLD)})
    assert {served.choose(SimilarRequest(item_id="a")).release.id for _ in range(50)} == {release.id}
    assert {served.choose(SimilarRequest(item_id="a", user_id=str(user))).release.id for user in range(50)} == {release.id, OLD}


def test_an_arm_whose_release_is_the_current_one_needs_no_second_copy_of_it(release: LoadedRelease) -> None:
    served = ServedReleases(named(release, OLD), HALVES)
    chosen = [served.choose(RecommendRequest(user_id=str(user))) for user in range(100)]
    assert {(c.release.id, c.variant) for c in chosen} == {(OLD, "a"), (OLD, "b")}


def test_only_users_of_the_current_release_try_the_new_one_and_not_the_same_for_each(release: LoadedRelease) -> None:
    served = ServedReleases(release, Plan(arms=HALVES.arms, canary=CANARY_PLAN), others={OLD: named(release, OLD)})
    trials = []
    for name in (NEW, THIRD):
        asyncio.run(served.start_trial(named(release, name), CANARY_PLAN, 0))
        chosen = [served.choose(RecommendRequest(user_id=str(user))) for user in range(1000)]
        trials.append([c.variant == CANARY for c in chosen])
        assert 50 < sum(trials[-1]) < 150, "20 % of half of them"
        assert all((c.release.id == name) == (c.variant == CANARY) for c in chosen)
        assert {c.variant for c in chosen if c.trial is None} == {"b"}, "its users have another release to compare with"
    assert trials[0] != trials[1]


def test_a_snapshot_is_never_changed_and_never_contradicts_itself(release: LoadedRelease) -> None:
    snapshot = Snapshot(release, {NEW: named(release, NEW)})
    with pytest.raises(FrozenInstanceError):
        snapshot.current = named(release, NEW)  # type: ignore[misc]
    with pytest.raises(AssertionError):
        Snapshot(release, {release.id: release})
    with pytest.raises(AssertionError):
        Snapshot(release, trial=Trial(NEW, CANARY_PLAN, 0))


def test_no_request_sees_half_a_swap(two: TwoReleases, follow: Follow, tmp_path: Path) -> None:
    """While releases are swapped, put on trial and changed, whatever looks sees one of the whole states between two steps."""
    server = follow(two.store, two.first, Plan(canary=CANARY_PLAN), delta=DeltaStore(tmp_path / "delta.db"))
    served, changes = server.served, server.changes
    assert changes is not None
    first, seen = served.current, [served.now]
    second = server.run(server.follower._loader.load(server.run(server.follower._loader.pointer())))

    async def look_on(busy: "asyncio.Task[None]") -> None:
        while not busy.done():
            now = served.now
            if now is not seen[-1]:
                seen.append(now)
            assert served.choose(RecommendRequest()).release in now.releases
            await asyncio.sleep(0)

    async def change_everything(changes: ItemChanges) -> None:
        await served.start_trial(second, CANARY_PLAN, 0)
        await served.put_items(changes, [msgspec.Raw(b'{"item_id": "new"}')], on_this_thread)
        await asyncio.sleep(0)  # a turn for whoever looks on
        served.end_trial()
        await served.swap(second)
        await served.swap(first)
        await asyncio.sleep(0)

    async def both() -> None:
        busy = asyncio.create_task(change_everything(changes))
        await look_on(busy)
        await busy

    server.run(both())
    states = [(now.current.id, sorted(now.others), bool(now.trial), ["new" in r.rows for r in now.releases]) for now in seen]
    assert states == [
        (two.first, [], False, [False]),
        (two.first, [two.second], True, [False, False]),
        (two.first, [two.second], True, [True, True]),
        (two.first, [], False, [True]),
        (two.second, [], False, [True]),
        (two.first, [], False, [True]),
    ]


def test_a_release_of_the_plan_goes_on_trial_as_it_is_in_memory(release: LoadedRelease, tmp_path: Path) -> None:
    changes = ItemChanges(DeltaStore(tmp_path / "delta.db"), 10)
    served = ServedReleases(release, HALVES, changes, {OLD: named(release, OLD)})

    async def put_and_try() -> None:
        await served.put_items(changes, [msgspec.Raw(b'{"item_id": "new"}')], on_this_thread)
        pinned = served.now.others[OLD]
        await served.start_trial(pinned, CANARY_PLAN, 0)
        assert served.now.others[OLD] is pinned, "its item changes and user states are kept"
        await changes.close()

    asyncio.run(put_and_try())


def test_changed_items_are_served_by_the_next_release_too(two: TwoReleases, follow: Follow, tmp_path: Path) -> None:
    server = follow(two.store, two.first, delta=DeltaStore(tmp_path / "delta.db"))
    gone = follow(two.store, two.second).answer()[2][0]
    changes = server.changes
    assert changes is not None
    server.run(server.served.put_items(changes, [msgspec.Raw(b'{"item_id": "new", "title": "olives"}')], on_this_thread))
    server.run(server.served.delete_items(changes, [gone], on_this_thread))
    assert server.look() == "swapped"
    _, _, items = server.answer(num_results=500)
    assert "new" in items
    assert gone not in items
    assert len(items) == 200
    server.run(server.served.delete_items(changes, ["new"], on_this_thread))
    assert "new" not in server.answer(num_results=500)[2]
    assert server.served.num_changed == (0, 2)


def test_what_is_known_of_users_outlives_item_changes_and_swaps(two: TwoReleases, follow: Follow, tmp_path: Path) -> None:
    server = follow(two.store, two.first, delta=DeltaStore(tmp_path / "delta.db"))
    changes, cache = server.changes, server.cache
    assert changes is not None
    events = [Event(event_type="view", timestamp=1, item_id=item_id) for item_id in server.served.current.item_ids[:3]]
    server.answer(user_id="ann", events=events)
    for item_id in ("new", events[2].item_id):
        server.run(server.served.put_items(changes, [msgspec.Raw(msgspec.json.encode({"item_id": item_id}))], on_this_thread))
        server.answer(user_id="ann", events=events)
    counters = cache.counters
    assert (counters.misses, counters.carried, counters.carried_in_part) == (1, 2, 1), "the item that was put again has no title"
    server.look()
    server.answer(user_id="ann", events=events)
    assert counters.hits == 3, "the next release has none of the items, but takes the state over"


def test_an_item_that_is_put_while_releases_change_is_in_the_one_that_is_served(
    two: TwoReleases, follow: Follow, tmp_path: Path
) -> None:
    server = follow(two.store, two.first, delta=DeltaStore(tmp_path / "delta.db"))
    changes = server.changes
    assert changes is not None

    async def put_many(looked: "asyncio.Task[str]") -> int:
        for number in range(1000):
            raw_items = [msgspec.Raw(f'{{"item_id": "new-{number}"}}'.encode())]
            await server.served.put_items(changes, raw_items, on_this_thread)
            if looked.done() and number > 10:
                return number + 1
            await asyncio.sleep(0.02)
        raise AssertionError("never looked")

    async def both() -> int:
        return await put_many(asyncio.create_task(server.follower.look()))

    num_put = server.run(both())
    release, _, items = server.answer(num_results=500)
    assert release == two.second
    assert {f"new-{number}" for number in range(num_put)} <= set(items)


def test_a_trial_that_ends_while_an_item_is_put_does_not_come_back(
    two: TwoReleases, follow: Follow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = follow(two.store, two.first, plan=Plan(canary=CANARY_PLAN), delta=DeltaStore(tmp_path / "delta.db"))
    assert server.look() == "trial"
    served, changes = server.served, server.changes
    assert changes is not None
    write = changes.write

    async def write_while_it_ends(items: Changed) -> None:
        served.end_trial()
        await write(items)

    monkeypatch.setattr(changes, "write", write_while_it_ends)
    server.run(served.put_items(changes, [msgspec.Raw(b'{"item_id": "new"}')], on_this_thread))
    assert (served.now.others, served.now.trial) == ({}, None)
    assert "new" in served.current.rows


def test_a_release_that_an_arm_names_stays_though_the_pointer_leaves_it(two: TwoReleases, follow: Follow) -> None:
    plan = Plan(arms=(Arm(name="new", percent=50), Arm(name="old", percent=50, release=two.first)))
    server = follow(two.store, two.first, plan)
    assert server.served.now.others == {}, "one release is in memory once"
    server.look()
    by_variant = {server.answer(user_id=user)[:2] for user in map(str, range(40))}
    assert by_variant == {(two.second, "new"), (two.first, "old")}
    server.run(server.served.swap(server.served.now.others[two.first]))
    assert server.served.now.others == {}


def test_a_release_on_trial_that_the_plan_pins_goes_on_answering_its_arm(release: LoadedRelease) -> None:
    plan = Plan(arms=HALVES.arms, canary=CANARY_PLAN)
    served = ServedReleases(release, plan, others={OLD: named(release, OLD)})
    asyncio.run(served.start_trial(named(release, OLD), CANARY_PLAN, time.monotonic()))
    served.end_trial()
    assert list(served.now.others) == [OLD]
