"""Row 14: a second release that there is no memory for is refused with a reason, and the server stays ready."""

from collections.abc import Callable
from typing import Any

import pytest

from service.release.memory import needed_bytes
from tests.service.conftest import Following, TwoReleases
from twotower.artefacts.release import release_path, verify_release

Follow = Callable[..., Following]


def test_a_release_larger_than_what_is_left_is_not_loaded_until_there_is_room(
    two: TwoReleases, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    left = 1000
    server = follow(two.store, two.first, available=lambda: left)
    assert [server.look(), server.look()] == ["unavailable", "unavailable"]
    assert server.count("twotower_release_load_failures_total", reason="memory") == 2
    assert f"{two.second} is not served (memory): {two.second} needs about" in caplog.text
    assert server.answer()[0] == two.first
    left = 1 << 40
    assert server.look() == "swapped"


def test_a_release_must_fit_twice_where_two_processes_hold_it(two: TwoReleases, follow: Follow) -> None:
    path = release_path(two.store, two.second)
    needed = needed_bytes(*verify_release(path))
    assert [follow(two.store, two.first, available=lambda: needed, engine=e).look() for e in ("process", "thread")] == [
        "unavailable",
        "swapped",
    ]


def test_an_allocation_that_fails_halfway_leaves_the_release_before(
    two: TwoReleases, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = follow(two.store, two.first)

    def fail(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("service.release.loading.norms_of", fail)
        assert server.look() == "unavailable"
    assert server.answer()[0] == two.first
    assert server.look() == "swapped"
