"""A week of `twotower nightly` on a made-up shop, with a real server under load. Its log is the story that an operator reads.

The catalogue changes every day. On night 4 the export lost half of the items, and the gates refuse it. On night 6 prices came in
cents: every gate passes, but visitors who ask for cheap items get none, and the server rolls the canary back.
"""

import argparse
import http.client
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.report import DIRECTORY, Row, write_report
from twotower import cli
from twotower.artefacts.release import current_release
from twotower.demo import stop
from twotower.nightly.command import carry_out, only_run
from twotower.nightly.config import load_config
from twotower.nightly.run import Command, Run, in_subprocess
from twotower.nightly.status import Night, new_night, read_night
from twotower.synthetic import DAYS, START, write_shop

LOST, CENTS = 4, 6  # the nights of the truncated export, and of prices in cents
NUM_LATE, LATE_PER_NIGHT = 20, 2  # items that the catalogue does not have on the first night, and that each night adds
CHEAP = "price < 8"
REQUESTS_PER_S = 20
READY_S = 90
CONFIG = """
nights = "nights"

[data]
events = "events.parquet"
items = "items.parquet"
schema = "schema.toml"
ingest = ["sh", "-c", "cp tonight/*.parquet ."]

[train]
{train}

[release]
store = "store"
gates = "gates.toml"
keep = 4

[canary]
servers = [{servers}]
percent = 50
seconds = {seconds}
min_requests = 1

[retention]
nights = 30
days = 400
histories = ["sqlite:///history.db"]
"""
GATES = "overlap20_same_bundle = 0.05\nsearch_p99_ms = 1000\n"  # a small shop on a machine that does other things too
TRAIN = 'recipe = "demo"\nminutes = 0.25\nevery_days = 4\non_drift = "never"'


@dataclass(slots=True)
class Told:
    """How one night ended."""

    number: int
    status: int
    night: Night
    served: str | None  # by the store's pointer, afterwards
    served_before: str | None
    answers: Counter[str] = field(default_factory=Counter)  # of the server meanwhile, by status


def main(argv: list[str] | None = None) -> int:
    """Simulate the week, print its log, and say whether every night ended as it should."""
    parser = argparse.ArgumentParser(prog="week", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/week"), help="folder for the shop (default: build/week)")
    args = parser.parse_args(argv)
    shutil.rmtree(args.out, ignore_errors=True)
    week = simulate(args.out, tuple(range(1, 8)), TRAIN, seconds=8, command=in_subprocess)
    rows = [
        Row(metric="week_ok", value=float(is_as_it_should_be(week)), unit="", better="higher", must=1),
        Row(metric="nights_promoted", value=sum(told.status in (0, 3) for told in week), unit="", better="higher", must=5),
        Row(metric="requests", value=sum(told.answers.total() for told in week), unit="", better="higher"),
        Row(metric="failed_requests", value=sum(failed(told) for told in week), unit="", better="lower", must=0),
    ]
    write_report("week", rows, DIRECTORY)
    return 0 if all(row.meets_must for row in rows) else 1


def simulate(
    out: Path, numbers: tuple[int, ...], train: str, seconds: float, command: Callable[[Path, int], Command]
) -> list[Told]:
    """Do the nights with these numbers, the first before there is a server; returns how each ended."""
    with nights_of(out, numbers, train, seconds, command) as (told, _, _):
        return told


@contextmanager
def nights_of(
    out: Path, numbers: tuple[int, ...], train: str, seconds: float, command: Callable[[Path, int], Command]
) -> Iterator[tuple[list[Told], str, "Shop"]]:
    """As `simulate`, with the server at work until the block ends, without visitors; yields its address and the shop too."""
    shop, traffic, first = Shop(out.resolve()), Counter[str](), numbers[0]
    shop.configure(train, "", seconds)
    shop.export(first)
    told = [one_night(shop, first, command, traffic)]
    if sentence := told[0].night.sentence():
        raise RuntimeError(f"there is nothing to serve: {sentence}")
    server, url = start_server(shop.home)
    visitors = Visitors(url, traffic)
    try:
        shop.configure(train, f'"{url}"', seconds)
        visitors.start()
        for number in numbers[1:]:
            shop.export(number)
            told.append(one_night(shop, number, command, traffic))
        visitors.leave()
        yield told, url, shop
    finally:
        visitors.leave()
        stop(server)


def one_night(shop: "Shop", number: int, command: Callable[[Path, int], Command], traffic: Counter[str]) -> Told:
    """Do one night as `twotower nightly` does it."""
    home, date, before = shop.home, shop.date(number), current_release(shop.home / "store") if number > 1 else None
    answers = traffic.copy()
    config = load_config(home / "nightly.toml")
    with only_run(home / config.nights) as held:
        folder = home / config.nights / date
        folder.mkdir(exist_ok=True)
        night = read_night(folder) or new_night(date)
        status = carry_out(Run(config, home, folder, night, command(home, held)))
    return Told(number, status, night, current_release(home / "store"), before, traffic - answers)


class Shop:
    """The shop's files: what its systems export every night."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(parents=True)
        write_shop(home)
        midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        events = pq.read_table(home / "events.parquet").sort_by("timestamp")
        place, moment = events.schema.get_field_index("timestamp"), pa.timestamp("ms", "UTC")
        moved = pc.add(events.column("timestamp"), pa.scalar(midnight - START - timedelta(days=DAYS))).cast(moment)
        self._midnight = midnight
        self._events = events.set_column(place, "timestamp", moved)
        counts = Counter(events.column("item_id").to_pylist())
        items = pq.read_table(home / "items.parquet")
        order = np.argsort([counts[item] for item in items.column("item_id").to_pylist()], kind="stable")[::-1]
        self._items = items.take(pa.array(order))  # those that sell least are the last
        (home / "gates.toml").write_text(GATES)

    def date(self, number: int) -> str:
        """The date of a night. The seventh is today."""
        return (self._midnight - timedelta(days=7 - number)).date().isoformat()

    def configure(self, train: str, servers: str, seconds: float) -> None:
        """Write nightly.toml."""
        (self.home / "nightly.toml").write_text(CONFIG.format(train=train, servers=servers, seconds=seconds))

    def export(self, number: int) -> None:
        """Write what the shop's systems export on a night: events until then, and the catalogue of that day."""
        tonight = self.home / "tonight"
        tonight.mkdir(exist_ok=True)
        until = pa.scalar(self._midnight - timedelta(days=7 - number), pa.timestamp("ms", "UTC"))
        pq.write_table(self._events.filter(pc.less(self._events.column("timestamp"), until)), tonight / "events.parquet")
        known = len(self._items) - NUM_LATE + LATE_PER_NIGHT * number
        items = self._items.slice(0, known)
        items = pa.concat_tables([items.slice(0, known - NUM_LATE - number), items.slice(known - NUM_LATE)])  # some have left
        price = items.schema.get_field_index("price")
        factor = np.random.default_rng(number).choice([1.0, 1.0, 1.0, 0.9, 1.1], len(items)) * (100 if number == CENTS else 1)
        items = items.set_column(price, "price", pc.round(pc.multiply(items.column("price"), pa.array(factor)), 2))
        if number == LOST:
            items = items.slice(0, len(items) // 2)
        pq.write_table(items, tonight / "items.parquet")


class Visitors(threading.Thread):
    """People who look for cheap items, and now and then at one, a few times a second."""

    def __init__(self, url: str, answers: Counter[str]) -> None:
        super().__init__(daemon=True)
        self._netloc, self._answers, self._gone = urlsplit(url).netloc, answers, threading.Event()

    def run(self) -> None:
        """Ask until told to leave."""
        number = 0
        while not self._gone.wait(1 / REQUESTS_PER_S):
            number += 1
            user, path = f"user-{number % 60}", "/v1/recommend"
            body: dict[str, object] = {"user_id": user, "filter": CHEAP, "num_results": 5}
            if number % 7 == 0:  # every seventh time they look at something
                seen = {
                    "user_id": user,
                    "event_type": "view",
                    "item_id": f"item-{number % 400}",
                    "timestamp": int(time.time() * 1000),
                }
                path, body = "/v1/events", {"events": [seen]}
            connection = http.client.HTTPConnection(self._netloc, timeout=10)
            try:
                connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
                self._answers[str(connection.getresponse().status)] += 1
            except OSError as error:
                self._answers[type(error).__name__] += 1
            finally:
                connection.close()

    def leave(self) -> None:
        """Stop, and wait for the last answer."""
        self._gone.set()
        if self.is_alive():
            self.join()


def start_server(home: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start `twotower serve` on a free port of loopback; returns the process and its address."""
    line = [sys.executable, "-m", "twotower.cli", "serve", "--store", "store", "--port", "0", "--history", "sqlite:///history.db"]
    settings = {"TWOTOWER_POLL_S": "2", "TWOTOWER_LOG_SAMPLE_RATE": "1", "TWOTOWER_TORCH_THREADS": "1"}
    with (home / "server.out").open("wb") as out, (home / "server.log").open("wb") as log:
        server = subprocess.Popen(line, stdout=out, stderr=log, cwd=home, env=os.environ | settings)
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and server.poll() is None:
        if words := (home / "server.out").read_text().split():
            return server, next(word for word in words if word.startswith("http://"))
        time.sleep(0.05)
    stop(server)
    raise RuntimeError(f"the server did not start: {(home / 'server.log').read_text()}")


def in_process(_: Path, __: int) -> Command:
    """Runs `twotower` commands in this process, which has their modules already: for tests."""

    def command(line: list[str], log: Path) -> tuple[int, str]:
        home = log.parents[2]
        if line[0] == "sh":
            return subprocess.run(line, cwd=home, check=False).returncode, ""
        output = StringIO()
        with log.open("a") as errors, redirect_stdout(output), redirect_stderr(errors), working_in(home):
            status = cli.main(line[1:] if line[0] == "twotower" else line[3:])
        return status, output.getvalue()

    return command  # type: ignore[return-value]


@contextmanager
def working_in(home: Path) -> Iterator[None]:
    """The working directory of a command."""
    before = Path.cwd()
    os.chdir(home)
    try:
        yield
    finally:
        os.chdir(before)


def failed(told: Told) -> int:
    """Requests of a night that were not answered well."""
    return sum(count for status, count in told.answers.items() if status not in ("200", "202"))


def is_as_it_should_be(week: list[Told]) -> bool:
    """Whether each night ended as it should: the bad ones left alone what was served."""
    return all(_ended_well(told) for told in week)


def _ended_well(told: Told) -> bool:
    stopped_at = {LOST: "embed", CENTS: "canary"}.get(told.number)
    if stopped_at:
        return told.status == 1 and told.night.step(stopped_at).state == "failed" and told.served == told.served_before
    return told.status in (0, 3) and told.night.step("promote").state == "done" and told.served == told.night.release


if __name__ == "__main__":
    sys.exit(main())
