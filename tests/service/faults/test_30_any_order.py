"""Row 30: publish, roll back, damage, mend, look, in any order: the last good pointer wins; looking twice changes nothing."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.service.conftest import Following, TwoReleases
from twotower.artefacts.item_changes import DeltaStore
from twotower.artefacts.release import VECTORS, open_store, read_pointer, release_path, roll_back, rollbacks, write_pointer

WHICH = st.sampled_from([0, 1])


class Pointers(RuleBasedStateMachine):
    """A follower, beside what it should make of its store."""

    published: TwoReleases

    @initialize()
    def start(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.store = Path(shutil.copytree(self.published.store, Path(self.directory.name) / "store"))
        self.releases = self.published[1:]
        self.contents = {r: (release_path(self.store, r) / VECTORS).read_bytes() for r in self.releases}
        self.server = Following(self.store, self.releases[0])
        self.answers = {r: Following.answers_of(self.store, r) for r in self.releases}
        self.damaged: set[str] = set()
        self.served, self.in_memory, self.dealt_with = self.releases[0], {self.releases[0]}, 0

    def teardown(self) -> None:
        if hasattr(self, "server"):
            self.server.close()
            self.directory.cleanup()

    @rule(which=WHICH)
    def publish(self, which: int) -> None:
        write_pointer(self.store, self.releases[which], "a test")

    @rule()
    def go_back(self) -> None:
        if rollbacks(read_pointer(self.store)) and not self.damaged:
            roll_back(open_store(self.store), None)

    @rule(which=WHICH)
    def damage(self, which: int) -> None:
        self._write(self.releases[which], b"rotten")
        self.damaged.add(self.releases[which])

    @rule(which=WHICH)
    def mend(self, which: int) -> None:
        self._write(self.releases[which], self.contents[self.releases[which]])
        self.damaged.discard(self.releases[which])

    @rule()
    def forget_the_one_before(self) -> None:
        self.server.run(self._drop())
        self.in_memory = {self.served}

    @rule(times=st.sampled_from([1, 2]))
    def look(self, times: int) -> None:
        pointer = read_pointer(self.store)
        expected = "unchanged"
        if pointer.sequence != self.dealt_with and pointer.release != self.served:
            good = pointer.release in self.in_memory or pointer.release not in self.damaged
            expected = "swapped" if good else "refused"
        self.dealt_with = pointer.sequence
        if expected == "swapped":
            self.in_memory = {self.served, pointer.release}
            self.served = pointer.release
        outcomes = self.server.run(self._look_at_once(times))
        assert outcomes == [expected, "unchanged"][:times]

    @invariant()
    def it_answers_as_the_release_does_that_it_names(self) -> None:
        if hasattr(self, "server"):
            release, _, items = self.server.answer()
            assert release == self.served
            assert items == self.answers[release]

    async def _drop(self) -> None:
        self.server.follower._swapper._forget()

    async def _look_at_once(self, times: int) -> list[str]:
        return await asyncio.gather(*(self.server.follower.look() for _ in range(times)))

    def _write(self, release: str, content: bytes) -> None:
        file = release_path(self.store, release) / VECTORS
        file.unlink()  # whoever has it mapped keeps what it was
        file.write_bytes(content)


@pytest.mark.faults
def test_the_last_good_pointer_wins_in_any_order(published_two: TwoReleases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.rollout.loading.WARM_LENGTHS", (0,))
    machine = type("Machine", (Pointers,), {"published": published_two})
    run_state_machine_as_test(machine, settings=settings(max_examples=20, stateful_step_count=20, deadline=None))


def test_a_swap_that_the_servers_end_cuts_short_leaves_one_whole_release(
    two: TwoReleases, follow: Callable[..., Following], tmp_path: Path
) -> None:
    server = follow(two.store, two.first, delta=DeltaStore(tmp_path / "delta.db"))
    answers = {release: Following.answers_of(two.store, release) for release in two[1:]}

    async def look_for(seconds: float) -> None:
        looking = asyncio.create_task(server.follower.look())
        await asyncio.sleep(seconds)
        looking.cancel()
        await asyncio.wait([looking])

    for milliseconds in range(0, 60, 3):
        server.run(look_for(milliseconds / 1000))
        release, _, items = server.answer()
        assert items == answers[release]
    server.look()
    assert server.answer()[0] == two.second
