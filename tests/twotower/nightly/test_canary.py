"""A release is promoted when every server says so, and withdrawn from all when one does not."""

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from msgspec.structs import replace

from tests.twotower.nightly.conftest import Commands
from twotower.artefacts.manifest import MANIFEST
from twotower.artefacts.release import Candidate, current_release, read_pointer, rollbacks, write_pointer
from twotower.nightly import canary
from twotower.nightly.canary import promote, try_on_servers
from twotower.nightly.run import Run, StepFailed, StepRefused
from twotower.nightly.servers import Silent

OLD, NEW = "release-00000000000a", "release-00000000000b"
Say = Callable[[int], dict[str, Any]]


class Fake:
    """A server that says something else at each question."""

    def __init__(self, url: str, say: Say) -> None:
        self.url, self._say, self._questions = url, say, itertools.count()

    def look(self) -> None:
        pass

    def releases(self) -> dict[str, Any]:
        return self._say(next(self._questions))


def told(passed: bool = False, serving: str = OLD, **more: Any) -> dict[str, Any]:
    numbers = {"requests": 40, "failed": 0, "degraded": 1, "p99_ms": 12.34}
    trial = {"release": NEW, "passed": passed, "new": numbers}
    return {"serving": serving, "trial": trial, "quarantined": {}} | more


@pytest.fixture
def shop(run: Run, commands: Commands) -> Run:
    """A store with one current release and a new one, whose pointer the commands move."""
    for release in (OLD, NEW):
        folder = run.home / "store" / "releases" / release
        folder.mkdir()
        (folder / MANIFEST).write_text("{}")
    write_pointer(run.store, OLD, "test")
    run.night.step("canary").state = "running"

    def move(words: list[str]) -> str:
        pointer = read_pointer(run.store)
        if words[1] == "propose":
            candidate = Candidate(release=NEW, percent=5, seconds=2)
            write_pointer(run.store, OLD, "test", None, rollbacks(pointer), candidate)
        else:
            write_pointer(run.store, NEW if words[1] == "activate" else OLD, "test")
        return "said"

    commands.answers = dict.fromkeys(("releases propose", "releases withdraw", "releases activate", "releases rollback"), move)
    return run


def with_servers(run: Run, monkeypatch: pytest.MonkeyPatch, *say: Say) -> None:
    servers = [Fake(f"http://s{number}", one) for number, one in enumerate(say)]
    monkeypatch.setattr(canary, "servers_of", lambda *_: servers)
    run.config = replace(run.config, canary=replace(run.config.canary, servers=tuple(s.url for s in servers)))


def test_a_release_passes_when_every_server_says_so(shop: Run, monkeypatch: pytest.MonkeyPatch, commands: Commands) -> None:
    with_servers(shop, monkeypatch, lambda n: told(passed=n > 0), lambda n: told(passed=n > 3))
    assert try_on_servers(shop, NEW) == "passed on 2 servers: 80 requests, 0 failed, 2 degraded, p99 12.3 ms"
    assert read_pointer(shop.store).release == OLD
    assert try_on_servers(shop, NEW), "a run that was stopped here goes on"
    assert commands.names == ["releases propose"]
    with_servers(shop, monkeypatch, lambda n: told(serving=NEW if n > 2 else OLD))
    assert promote(shop, NEW) == f"{NEW} is current"
    assert promote(shop, NEW) == f"{NEW} is current", "a run that was stopped here goes on"
    assert commands.names == ["releases propose", "releases activate"]


def test_a_limit_broken_on_one_server_withdraws_it_from_all(shop: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with_servers(shop, monkeypatch, lambda _: told(passed=True), lambda n: told(quarantined={NEW: "degraded"} if n > 1 else {}))
    with pytest.raises(StepFailed, match=f"{NEW} is withdrawn: http://s1 rolled it back: it broke the limit of degraded; {OLD}"):
        try_on_servers(shop, NEW)
    assert (read_pointer(shop.store).release, read_pointer(shop.store).candidate) == (OLD, None)


def test_a_silent_server_withdraws_it(shop: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_: int) -> dict[str, Any]:
        raise Silent("http://s0 does not answer: timed out")

    clock = itertools.count()
    monkeypatch.setattr("twotower.nightly.canary.time", SimpleNamespace(monotonic=lambda: next(clock) * 0.3))
    with_servers(shop, monkeypatch, silent)
    with pytest.raises(StepFailed, match="is withdrawn: http://s0 does not answer: timed out"):
        try_on_servers(shop, NEW)
    assert read_pointer(shop.store).candidate is None


def test_without_a_verdict_in_time_it_is_withdrawn(shop: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr("twotower.nightly.canary.time", SimpleNamespace(monotonic=lambda: next(clock) * 0.3))
    with_servers(shop, monkeypatch, lambda _: told() | {"trial": None})
    with pytest.raises(StepFailed, match="no verdict of http://s0 in time"):
        try_on_servers(shop, NEW)


def test_too_few_requests_are_no_trial(shop: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with_servers(shop, monkeypatch, lambda _: told(passed=True))
    shop.config = replace(shop.config, canary=replace(shop.config.canary, min_requests=41))
    with pytest.raises(StepFailed, match="only 40 requests tried it, 41 are wanted"):
        try_on_servers(shop, NEW)


def test_an_operator_who_moves_the_pointer_wins(shop: Run, monkeypatch: pytest.MonkeyPatch, commands: Commands) -> None:
    def moved(number: int) -> dict[str, Any]:
        if number == 1:
            write_pointer(shop.store, OLD, "an operator")
        return told()

    with_servers(shop, monkeypatch, moved)
    with pytest.raises(StepFailed, match="moved by someone else"):
        try_on_servers(shop, NEW)
    with pytest.raises(StepFailed, match=f"moved by someone else, so {NEW} is not promoted"):
        promote(shop, NEW)
    assert current_release(shop.store) == OLD
    assert commands.names == ["releases propose"]


def test_servers_that_come_and_go_meanwhile(shop: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is taken away before its verdict, and one comes whose trial would last too long: neither is waited for."""
    stays, goes, comes = (Fake(f"http://{name}", lambda n: told(passed=n > 2)) for name in ("stays", "goes", "comes"))
    there = iter([[stays, goes], [stays, goes], [stays, comes], [], *[[stays, comes]] * 9])
    monkeypatch.setattr(canary, "_servers", lambda _: next(there))
    comes._say = lambda _: told()
    assert try_on_servers(shop, NEW).startswith("passed on 1 servers: 40 requests")


def test_a_server_that_came_late_and_is_silent_is_not_waited_for(shop: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stays, comes = Fake("http://stays", lambda n: told(passed=n > 3)), Fake("http://comes", lambda _: silent("http://comes"))
    there = iter([[stays], [stays], *[[stays, comes]] * 9])
    monkeypatch.setattr(canary, "_servers", lambda _: next(there))
    clock = itertools.count()
    monkeypatch.setattr("twotower.nightly.canary.time", SimpleNamespace(monotonic=lambda: next(clock) * 0.1))
    assert try_on_servers(shop, NEW).startswith("passed on 1 servers")


def test_a_server_that_came_late_and_breaks_a_limit_withdraws_it(shop: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stays, comes = Fake("http://stays", lambda _: told()), Fake("http://comes", lambda _: told(quarantined={NEW: "p99"}))
    there = iter([[stays], [stays], *[[stays, comes]] * 9])
    monkeypatch.setattr(canary, "_servers", lambda _: next(there))
    with pytest.raises(StepRefused, match="http://comes rolled it back"):
        try_on_servers(shop, NEW)


def test_a_name_that_no_server_has_is_told(shop: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr("twotower.nightly.canary.time", SimpleNamespace(monotonic=lambda: next(clock) * 0.3))
    monkeypatch.setattr("twotower.nightly.servers.addresses", lambda url: silent(url))
    shop.config = replace(shop.config, canary=replace(shop.config.canary, servers=("dns+http://servers:9000",)))
    with pytest.raises(StepRefused, match=r"no verdict of dns\+http://servers:9000 in time"):
        try_on_servers(shop, NEW)


def silent(url: str) -> NoReturn:
    raise Silent(f"{url} names no server")


def test_a_server_that_cannot_serve_what_was_promoted_sends_the_store_back(
    shop: Run, monkeypatch: pytest.MonkeyPatch, commands: Commands
) -> None:
    with_servers(shop, monkeypatch, lambda _: told(passed=True))
    try_on_servers(shop, NEW)
    with_servers(shop, monkeypatch, lambda _: told(quarantined={NEW: "memory"}))
    with pytest.raises(StepFailed, match=r"does not serve release-00000000000b \(memory\), so the store went back"):
        promote(shop, NEW)
    assert current_release(shop.store) == OLD


def test_without_servers_a_release_is_promoted_at_once(shop: Run, tmp_path: Path) -> None:
    assert promote(shop, NEW) == f"{NEW} is current"
    assert current_release(tmp_path / "store") == NEW
