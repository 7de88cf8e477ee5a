"""Nights of `twotower nightly` that are killed with SIGKILL, process and commands together, at every step and inside the steps.

A killed night leaves what is served as it was. The next run goes on, and in the end the store has the release of a night that
nobody killed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

from benchmarks.week import Shop, Visitors, in_process, one_night, start_server
from twotower.artefacts.manifest import MANIFEST
from twotower.artefacts.release import GATES, read_pointer
from twotower.demo import stop
from twotower.nightly.status import ENDED, STEPS, Night, read_night

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

TRIAL_S = 4
KEPT = 'bundle = "{}"\nevery_days = 100000\non_drift = "never"'
END_S = 120.0
Hashes = dict[str, str]


class Kill(NamedTuple):
    """When to kill: in which step, and at which moment of it. A number is seconds after its beginning, at most its end."""

    step: str
    moment: Literal["begun", "unnoted", "noted"] | float  # unnoted: its work is done, and that is not noted yet


KILLED = """
import os, signal, sys, threading
from twotower import cli
from twotower.nightly import run

step, moment, running, write = sys.argv.pop(1), sys.argv.pop(1), False, run.write_night

def die():
    os.killpg(0, signal.SIGKILL)

def write_and_die(night, folder):
    global running
    state = night.step(step).state
    if running and state != "running" and moment != "noted":
        die()
    write(night, folder)
    if running and state != "running" or state == "running" and moment == "begun":
        die()
    if state == "running" and not running and moment not in ("unnoted", "noted"):
        threading.Timer(float(moment), die).start()
    running = state == "running"

run.write_night = write_and_die
sys.exit(cli.main(sys.argv[1:]))
"""


class Killed(NamedTuple):
    """A shop with a server and visitors, whose second night is to come."""

    shop: Shop
    url: str
    traffic: Counter[str]

    @property
    def night(self) -> Night:
        night = read_night(self.folder)
        assert night is not None
        return night

    @property
    def folder(self) -> Path:
        return self.shop.home / "nights" / self.shop.date(2)

    @property
    def metrics(self) -> str:
        return (self.shop.home / "nightly.prom").read_text()

    def serving(self) -> str:
        """The release that the server says it serves."""
        with urllib.request.urlopen(f"{self.url}/v1/releases", timeout=10) as answer:
            serving: str = json.loads(answer.read())["serving"]
            return serving

    def run(self, kill: Kill | None = None) -> int:
        """Run the night; the exit status, negative for the signal. The whole group is killed, as a container is."""
        program = ["-c", KILLED, kill.step, str(kill.moment)] if kill else ["-m", "twotower.cli"]
        line = [sys.executable, *program, "nightly", "--config", str(self.shop.home / "nightly.toml")]
        with (self.shop.home / "night.log").open("a") as log:
            process = subprocess.Popen([*line, "--date", self.shop.date(2)], stderr=log, stdout=log, start_new_session=True)
            try:
                return process.wait(END_S)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


def configure(shop: Shop, train: str, servers: str) -> None:
    """The configuration of a week, with a file of metrics."""
    shop.configure(train, servers, TRIAL_S)
    path = shop.home / "nightly.toml"
    path.write_text('metrics = "nightly.prom"\n' + path.read_text())


@contextmanager
def begun(home: Path, train: str) -> Iterator[Killed]:
    """The first night is done, a server serves its release to visitors, and the second night's data is there."""
    shop, traffic = Shop(home), Counter[str]()
    configure(shop, train, "")
    shop.export(1)
    assert one_night(shop, 1, in_process, traffic).status == 0
    shop.export(2)
    server, url = start_server(shop.home)
    visitors = Visitors(url, traffic)
    try:
        visitors.start()
        yield Killed(shop, url, traffic)
    finally:
        visitors.leave()
        stop(server)


@pytest.fixture
def killed(tiny_bundle: Path, tmp_path: Path) -> Iterator[Killed]:
    """A shop whose bundle is there already."""
    with begun(tmp_path / "shop", KEPT.format(tiny_bundle)) as shop:
        yield shop


def hashes(store: Path, release: str) -> Hashes:
    """The hash of each file of a release, but for gates.json, which holds times."""
    files = json.loads((store / "releases" / release / MANIFEST).read_bytes())["files"]
    return {name: entry["sha256"] for name, entry in files.items() if name != GATES}


def unkilled(killed: Killed, tmp_path: Path) -> tuple[Hashes, dict[str, float]]:
    """The release of a night that nobody kills, in a copy of the shop, and the seconds that its steps take."""
    shop = Shop.__new__(Shop)
    vars(shop).update(vars(killed.shop), home=tmp_path / "copy")
    ignored = shutil.ignore_patterns("history.db*", "server.*")
    shutil.copytree(killed.shop.home, shop.home, ignore=ignored, symlinks=True)
    config = shop.home / "nightly.toml"
    config.write_text(config.read_text().replace('histories = ["sqlite:///history.db"]', ""))
    other = Killed(shop, killed.url, killed.traffic)
    assert other.run() == 0
    assert other.night.release is not None
    times = {step.name: (step.started, step.ended) for step in other.night.steps}
    seconds = {name: (ended - begun).total_seconds() for name, (begun, ended) in times.items() if begun and ended}
    return hashes(shop.home / "store", other.night.release), seconds


def test_a_night_that_is_killed_at_every_step_ends_as_one_that_is_not(killed: Killed, tiny_bundle: Path, tmp_path: Path) -> None:
    expected, seconds = unkilled(killed, tmp_path)
    store = killed.shop.home / "store"
    before = read_pointer(store).release
    configure(killed.shop, KEPT.format(tiny_bundle), f'"{killed.url}"')
    seconds["canary"] = TRIAL_S
    for name in STEPS:
        for moment in ("begun", 0.3 * seconds[name], 0.7 * seconds[name], "unnoted", "noted"):
            kill = Kill(name, moment)
            assert killed.run(kill) == -signal.SIGKILL, kill
            now = read_pointer(store).release
            may_be_new = name == "clean" or (name == "promote" and moment != "begun")
            must_be_new = name == "clean" or (name == "promote" and moment in ("unnoted", "noted"))
            assert now == before or may_be_new, kill
            assert now != before or not must_be_new, kill
            assert now in (before, killed.night.release), kill
            if now == before:
                assert killed.serving() == before, kill
            if kill != Kill("clean", "noted"):
                assert "twotower_nightly_running 1.0" in killed.metrics, kill
    assert killed.run() == 0
    assert all(step.state in ENDED for step in killed.night.steps)
    assert {step.name: step.state for step in killed.night.steps}["canary"] == "done"
    assert read_pointer(store).release == killed.night.release == killed.serving() != before
    assert hashes(store, killed.serving()) == expected
    assert read_pointer(store).candidate is None
    assert "twotower_nightly_running 0.0" in killed.metrics
    assert set(killed.traffic) <= {"200", "202"}, killed.traffic


def test_a_night_that_is_killed_while_it_trains_and_evaluates_ends_with_the_new_bundle(tmp_path: Path) -> None:
    train = 'recipe = "demo"\nminutes = 0.3\non_drift = "never"\nevery_days = {}'
    with begun(tmp_path / "shop", train.format(100)) as killed:
        store = killed.shop.home / "store"
        configure(killed.shop, train.format(0.5), f'"{killed.url}"')
        before = read_pointer(store).release
        in_train = [Kill("train", moment) for moment in ("begun", 5.0, 12.0, "unnoted")]
        for kill in (*in_train, Kill("evaluate", 0.5), Kill("evaluate", "unnoted")):
            assert killed.run(kill) == -signal.SIGKILL, kill
            assert (read_pointer(store).release, killed.serving()) == (before, before)
        assert killed.run() == 0, killed.night.sentence()
        assert not (killed.folder / "training").exists(), "what training needs to go on is removed at its end"
        assert [killed.night.step(name).state for name in ("train", "evaluate", "canary", "promote")] == ["done"] * 4
        assert killed.serving() == killed.night.release != before
    assert set(killed.traffic) <= {"200", "202"}, killed.traffic
