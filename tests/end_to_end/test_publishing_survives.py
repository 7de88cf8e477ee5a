"""Whatever ends the nightly job, the pointer names a complete verified release, and the next night goes on from there."""

import itertools
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Nights
from tests.service.conftest import Following
from twotower.artefacts.release import list_releases, newest, read_info, read_pointer, release_path, verify_release


def check(store: Path) -> None:
    """What must be true of a store at every moment once something was published."""
    verify_release(release_path(store, read_pointer(store).release))
    for release in list_releases(store):
        verify_release(release_path(store, release))


def check_ended(store: Path) -> None:
    """What must be true once a run came to its end: besides, nothing is left over, and CURRENT says what the numbers say."""
    check(store)
    assert json.loads((store / "CURRENT").read_bytes())["sequence"] == newest(store).sequence
    assert not [path for path in store.glob("*/.*") if path.is_dir()]
    assert len(list_releases(store)) == newest(store).sequence


def names(store: Path) -> list[str]:
    """What lies in a store, as far as a reader could take it for something."""
    return sorted(str(path.relative_to(store)) for path in store.glob("*/*") if not path.name.startswith(".staging"))


@pytest.fixture
def watcher(store: Path) -> Iterator[list[str]]:
    """A server that looks at the pointer all the while, and answers from each release that is new."""
    ended, served, failed = threading.Event(), list[str](), list[str]()
    server = Following(store, read_pointer(store).release)

    def watch() -> None:
        while not ended.is_set():
            outcome = server.look()
            if outcome == "swapped":
                served.append(server.answer()[0])
            elif outcome != "unchanged":
                failed.append(f"{outcome}: {server.follower.quarantined}")
            time.sleep(0.03)

    thread = threading.Thread(target=watch)
    thread.start()
    yield served
    ended.set()
    thread.join()
    server.close()
    assert not failed, failed


def test_it_may_be_killed_at_every_step(nights: Nights, store: Path, watcher: list[str]) -> None:
    before = names(store)
    for step in itertools.count(1):
        ended = nights.embed(store, step, "kill", step)
        check(store)
        if ended.status != -9:
            break
        if names(store) != before or step == 20:
            assert nights.embed(store, step).status == 0
            check_ended(store)
            before = names(store)
        for left in (store / "releases").glob(".staging-*"):
            shutil.rmtree(left)  # else the next night's first steps were to do so
    assert ended.status == 0, ended.said
    check_ended(store)
    assert step > 40, "or the steps are not seen any more"
    parts = [read_info(release_path(store, release)).num_parts for release in list_releases(store)]
    assert parts.count(0) > 1, "all items are written anew when a tenth has changed"
    assert {2, 3} <= set(parts), "and only those that changed on other nights"
    assert len(watcher) > 10


@pytest.mark.parametrize("nights_before", [0, 1])
def test_the_power_may_be_cut_before_every_step(nights: Nights, tmp_path: Path, nights_before: int) -> None:
    store, crashes = tmp_path / "store", tmp_path / "crashes"
    store.mkdir()
    crashes.mkdir()
    for night in range(nights_before):
        assert nights.embed(store, night).status == 0
    ended = nights.embed(store, nights_before, "power", {"store": str(store), "crashes": str(crashes)})
    assert ended.status == 0, ended.said
    left = sorted(crashes.glob("[0-9]*"))
    for crash in left:
        if newest(crash).sequence:
            check(crash)
    assert {newest(crash).sequence for crash in left} == {nights_before, nights_before + 1}
    assert newest(crashes / (crashes / ".least").read_text()).sequence == nights_before + 1, "what was published stays"
    assert len(left) >= 8, "or the states are not seen any more"
    for crash in left[:: len(left) // 4]:
        assert nights.embed(crash, nights_before).status == 0
        check_ended(crash)
