"""What goes, what stays, and that nobody is left with a pointer to what went."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from twotower.artefacts.manifest import MANIFEST
from twotower.artefacts.release import Candidate, list_releases, newest, read_pointer, rollbacks, write_pointer
from twotower.artefacts.retention import KEPT_POINTERS, collect
from twotower.artefacts.store import LocalStore, Store
from twotower.errors import StoreError

NAMES = [f"release-00000000000{n}" for n in range(5)]


def add(store: Store, release: str) -> None:
    """A release of which only the name and the time matter."""
    (store.local / "releases" / release).mkdir(parents=True, exist_ok=True)
    store.replace(f"releases/{release}/{MANIFEST}", b"{}")


@pytest.fixture
def store(any_store: Store) -> Store:
    """Five releases, each once current; in a bucket all of the same second, in the order of their names."""
    for n, release in enumerate(NAMES):
        add(any_store, release)
        if isinstance(any_store, LocalStore):
            os.utime(any_store.local / "releases" / release, (time.time() - 100 + n,) * 2)
        write_pointer(any_store, release, reason="test")
    return any_store


def test_the_newest_and_what_a_rollback_needs_stay(store: Store) -> None:
    assert collect(store, keep=3, grace_minutes=0) == (2, 3)
    assert list_releases(store) == NAMES[2:]
    assert collect(store, keep=1, grace_minutes=0) == (1, 2)
    assert list_releases(store) == NAMES[3:], "the newest is current, the other is what a rollback goes to"


def test_what_is_current_stays_however_old_it_is(store: Store) -> None:
    write_pointer(store, NAMES[1], reason="test")
    write_pointer(store, NAMES[0], reason="test")
    collect(store, keep=1, grace_minutes=0)
    assert list_releases(store) == [NAMES[0], NAMES[1], NAMES[4]]


def test_what_a_rollback_goes_to_stays_even_when_it_must_pass_one_over(store: Store) -> None:
    write_pointer(store, NAMES[2], reason="test")
    write_pointer(store, NAMES[1], reason="test")
    write_pointer(store, NAMES[0], reason="test")
    store.retire(NAMES[1], lambda: False)
    collect(store, keep=1, grace_minutes=0)
    assert list_releases(store) == [NAMES[0], NAMES[2], NAMES[4]]


def test_what_was_written_a_moment_ago_stays(store: Store) -> None:
    assert collect(store, keep=1, grace_minutes=60) == (0, 5)


def test_what_was_current_a_moment_ago_stays(tmp_path: Path) -> None:
    """Written long ago, served until now: a server may have begun to load it."""
    (tmp_path / "releases").mkdir()
    store = LocalStore(tmp_path)
    for release in NAMES:
        add(store, release)
        os.utime(tmp_path / "releases" / release, (time.time() - 1e6,) * 2)
        write_pointer(store, release, reason="test")
    assert collect(store, keep=1, grace_minutes=60) == (0, 5)
    assert collect(store, keep=1, grace_minutes=0) == (3, 2)


def test_what_is_activated_meanwhile_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator is faster than the removal of that very release."""
    retire = type(store).retire

    def activate_first(self: Store, release: str, wanted: Callable[[], bool]) -> bool:
        if release == NAMES[1]:
            write_pointer(self, release, reason="an operator")
        return retire(self, release, wanted)

    monkeypatch.setattr(type(store), "retire", activate_first)
    assert collect(store, keep=1, grace_minutes=0) == (2, 3)
    assert read_pointer(store).release == NAMES[1]
    assert NAMES[1] in list_releases(store)


def test_what_was_removed_meanwhile_is_not_activated(store: Store) -> None:
    """The removal is faster: whoever had begun to activate is told, and the pointer stays."""
    at_start = newest(store)
    collect(store, keep=1, grace_minutes=0)
    with pytest.raises(StoreError, match="no release"):
        write_pointer(store, NAMES[0], "an operator", at_start)
    assert newest(store) == at_start


def test_without_a_lock_a_pointer_to_what_just_went_is_taken_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(store, LocalStore):
        pytest.skip("a directory has a lock")
    create = type(store).create

    def retire_first(self: Store, key: str, content: bytes) -> bool:
        if NAMES[0].encode() in content.partition(b"previous")[0]:
            self.retire(NAMES[0], lambda: False)
        return create(self, key, content)

    monkeypatch.setattr(type(store), "create", retire_first)
    with pytest.raises(StoreError, match="removed"):
        write_pointer(store, NAMES[0], reason="an operator")
    assert read_pointer(store).release == NAMES[4]
    assert read_pointer(store).sequence == 7, "taken back by a pointer of its own"


def test_old_pointers_are_forgotten_and_their_numbers_are_not(tmp_path: Path) -> None:
    (tmp_path / "releases").mkdir()
    store = LocalStore(tmp_path)
    add(store, NAMES[0])
    for _ in range(KEPT_POINTERS + 5):
        write_pointer(store, NAMES[0], reason="test")
    collect(store, keep=1, grace_minutes=0)
    assert len(store.names("pointers")) == KEPT_POINTERS
    assert write_pointer(store, NAMES[0], reason="test").sequence == KEPT_POINTERS + 6


def test_what_is_tried_beside_the_current_release_stays(store: Store) -> None:
    pointer = read_pointer(store)
    candidate = Candidate(release=NAMES[0], percent=5, seconds=60)
    write_pointer(store, pointer.release, "test", None, rollbacks(pointer), candidate)
    collect(store, keep=1, grace_minutes=0)
    assert list_releases(store) == [NAMES[0], *NAMES[3:]]
