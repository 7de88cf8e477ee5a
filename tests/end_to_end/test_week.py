"""Nights of `twotower nightly` with a real server under load; and that a deleted user is nowhere afterwards."""

import json
import re
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.week import (
    LOST,
    TRAIN,
    Shop,
    Told,
    Visitors,
    failed,
    in_process,
    is_as_it_should_be,
    nights_of,
    one_night,
    simulate,
)
from twotower.artefacts.release import current_release
from twotower.cli import main
from twotower.nightly.run import Stopped
from twotower.nightly.status import STEPS

pytestmark = pytest.mark.timeout(900)

USER = "user-7"
NAMED = re.compile(rb"user-7(?!\d)")


class Nights:
    """Two nights that were done, their folder, and the server, which is still at work."""

    def __init__(self, told: list[Told], url: str, shop: Shop) -> None:
        self.home, self.told, self.url, self.shop = shop.home, told, url, shop

    def files_that_name(self, user: re.Pattern[bytes]) -> set[str]:
        """Files with the user's id, in their bytes or in what their compressed columns hold."""
        found = set()
        for path in self.home.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                if path.suffix == ".parquet":
                    content += str(pq.read_table(path).to_pydict()).encode()
                if user.search(content):
                    found.add(str(path.relative_to(self.home)))
        return found


@pytest.fixture(scope="module")
def nights(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nights]:
    home = tmp_path_factory.mktemp("week") / "shop"
    train = f'bundle = "{tiny_bundle}"\nevery_days = 1000\non_drift = "never"'
    with nights_of(home, (1, 2), train, 3, in_process) as night:
        yield Nights(*night)


def test_a_first_night_publishes_and_the_second_is_tried_on_the_server(nights: Nights) -> None:
    first, second = nights.told
    assert is_as_it_should_be(nights.told)
    assert [first.night.step(name).state for name in STEPS] == [
        *("done", "done", "skipped", "skipped", "done", "done", "skipped", "skipped", "done", "done")
    ]
    assert second.night.step("canary").message.startswith("passed on 1 servers: ")
    assert second.served != second.served_before
    assert second.answers.total() > 20
    assert failed(second) == 0


def test_a_deleted_user_is_in_no_file_and_no_history(nights: Nights, capsys: pytest.CaptureFixture[str]) -> None:
    seen = f'{{"user_id": "{USER}", "event_type": "view", "item_id": "item-1", "timestamp": {time.time_ns() // 1_000_000}}}'
    _ask(nights, "/v1/events", f'{{"events": [{seen}]}}')
    _ask(nights, "/v1/recommend", f'{{"user_id": "{USER}"}}')
    before = nights.files_that_name(NAMED)
    assert before >= {"events.parquet", "tonight/events.parquet"}
    assert before & {"history.db", "history.db-wal"}
    artefacts = {name for name in before if name.startswith(("store", "nights")) or name.endswith((".log", ".out"))}
    assert artefacts == set(), "releases, statuses and logs never name a user"

    places = ["--history", f"sqlite:///{nights.home / 'history.db'}", "--schema", str(nights.home / "schema.toml")]
    files = ["--events", str(nights.home / "events.parquet"), "--events", str(nights.home / "tonight/events.parquet")]
    assert main(["users", "delete", "--user", USER, *places, *files, "--server", nights.url]) == 0
    assert USER not in capsys.readouterr().out
    assert nights.files_that_name(NAMED) == set()
    with urllib.request.urlopen(f"{nights.url}/v1/users/{USER}") as answer:
        assert json.loads(answer.read())["num_events"] == 0
    assert int(json.loads(_ask(nights, "/v1/recommend", f'{{"user_id": "{USER}"}}'))["history_seq"]) == 0


def _ask(nights: Nights, path: str, body: str) -> bytes:
    request = urllib.request.Request(nights.url + path, body.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return bytes(answer.read())


class StoppedOnce:
    """Commands at which a run is told to stop: once before each kind of command, and once after it."""

    def __init__(self, home: Path, held: int) -> None:
        self._command = in_process(home, held)

    seen: set[tuple[str, str]] = set()  # noqa: RUF012 - of all runs of the night

    def __call__(self, line: Sequence[str], log: Path) -> tuple[int, str]:
        name = " ".join(line[3:5] if line[3] in ("releases", "users") else line[3:4]) if len(line) > 3 else line[0]
        self._stop(name, "before")
        result = self._command(line, log)
        self._stop(name, "after")
        return result

    def _stop(self, name: str, moment: str) -> None:
        if (name, moment) not in self.seen:
            self.seen.add((name, moment))
            raise Stopped


@pytest.mark.faults
def test_a_run_that_is_stopped_anywhere_goes_on_and_serves_what_was_served(nights: Nights) -> None:
    traffic = Counter[str]()
    visitors = Visitors(nights.url, traffic)
    visitors.start()
    nights.shop.export(3)
    store, before = nights.home / "store", current_release(nights.home / "store")
    try:
        for _ in range(30):
            told = one_night(nights.shop, 3, StoppedOnce, traffic)
            assert (told.served == before) == (("releases activate", "after") not in StoppedOnce.seen)
            if told.status != 143:
                break
    finally:
        visitors.leave()
    assert told.status == 0
    assert current_release(store) == told.night.release != before
    assert {name for name, _ in StoppedOnce.seen} == {
        *("sh", "validate", "embed", "releases verify", "releases propose", "releases activate", "releases gc", "users expire")
    }
    assert set(traffic) <= {"200", "202"}


@pytest.mark.faults
def test_a_week_of_which_two_nights_are_bad(tmp_path: Path) -> None:
    """The truncated export is refused by the gates; prices in cents pass them, and the server rolls them back."""
    week = simulate(tmp_path / "shop", tuple(range(1, 8)), TRAIN, 8, in_process)
    assert is_as_it_should_be(week), [told.night.sentence() for told in week]
    assert "item count change" in week[LOST - 1].night.step("embed").message
    # Answers without an item count as degraded, and have no item in common with the old ones: either may be noticed first.
    assert re.search("broke the limit of (degraded|overlap)", week[5].night.step("canary").message)
    assert [told.status for told in week] == [0, 0, 0, 1, 3, 1, 3]
    assert sum(map(failed, week)) == 0
    trained = [told.number for told in week if told.night.step("train").state == "done"]
    assert trained == [1, 5]
