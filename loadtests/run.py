"""`make loadtest`: start a server, replay real histories against it with Locust, and check the figures against limits."""

import argparse
import itertools
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from benchmarks.report import Row, write_report
from loadtests.traffic import Json, write_histories
from twotower.artefacts.bundle import SCHEMA
from twotower.artefacts.release import current_release, release_path
from twotower.data.schema import EventColumns, load_schema
from twotower.terminal import TextTable, console

READY_TIMEOUT_S = 120
STOP_TIMEOUT_S = 30
HISTORIES_PER_USER = 8
LOCUSTFILE = Path(__file__).resolve().with_name("locustfile.py")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What Locust measured on one endpoint, or on all of them together."""

    name: str
    num_requests: int
    num_failures: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, name: str, entries: Sequence[Json]) -> Self:
        """Combine entries of Locust's statistics. Locust rounds times to 1 ms below 100 ms, and to two digits above."""
        counts = [(float(ms), count) for e in entries for ms, count in e["response_times"].items()]
        times_ms = sorted(itertools.chain.from_iterable([ms] * count for ms, count in counts))
        num_requests = sum(e["num_requests"] for e in entries)
        seconds = max(e["last_request_timestamp"] for e in entries) - min(e["start_time"] for e in entries)
        return cls(
            name=name,
            num_requests=num_requests,
            num_failures=sum(e["num_failures"] for e in entries),
            requests_per_s=num_requests / seconds,
            p50_ms=percentile(times_ms, 0.50),
            p99_ms=percentile(times_ms, 0.99),
        )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed."""
    return ordered[math.ceil(share * len(ordered)) - 1]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the load test and print its figures. Exit status 1 when a limit is missed, 2 when store or events are missing."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.run", description=main.__doc__)
    parser.add_argument("--store", type=Path, default=Path("build/demo/store"), help="release store to serve")
    parser.add_argument("--events", type=Path, default=Path("build/demo/data/events.parquet"), help="histories to replay")
    parser.add_argument("--duration", type=int, default=60, help="seconds under load (60)")
    parser.add_argument("--users", type=int, default=2, help="users at once (2: what two cores can serve beside Locust)")
    parser.add_argument("--p99-ms", type=float, default=100.0, help="limit on the p99 latency of recommendations, in ms (100)")
    parser.add_argument("--max-failure-ratio", type=float, default=0.0, help="limit on the share of failed requests (0)")
    args = parser.parse_args(argv)
    if missing := [path for path in (args.store, args.events) if not path.exists()]:
        print(f"{missing[0]} does not exist: run `make demo ARGS=--once` first, or give --store and --events", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="loadtest-") as name:
        directory = Path(name)
        try:
            num_users, columns = HISTORIES_PER_USER * args.users, served_columns(args.store)
            num_histories = write_histories(args.events, directory / "histories.jsonl", num_users, columns)
        except ValueError as error:
            parser.error(str(error))
        with serving(args.store, directory) as url:
            print(f"{args.users} users replay {num_histories} real histories against {url} for {args.duration} s")
            endpoints = run_locust(url, directory, args.users, args.duration)
    console().print(endpoint_table(endpoints))
    rows = report_rows(endpoints, args.p99_ms, args.max_failure_ratio)
    write_report("loadtest", rows)
    return 0 if all(row.meets_must for row in rows) else 1


def served_columns(store: Path) -> EventColumns:
    """The columns of the event log, by the schema of the release that is served."""
    release = current_release(store)
    return load_schema(release_path(store, release) / SCHEMA).events if release else EventColumns()


@contextmanager
def serving(store: Path, directory: Path) -> Iterator[str]:
    """A server process on a free port, with its histories in `directory`. Yields its URL once it is ready."""
    port, log = free_port(), directory / "service.log"
    command = ["serve", "--store", str(store), "--port", str(port), "--history", f"sqlite:///{directory / 'history.db'}"]
    with log.open("wb") as output:
        server = subprocess.Popen([sys.executable, "-m", "twotower.cli", *command], stdout=output, stderr=output)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(server, url, log)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Return when /readyz answers 200. SystemExit with the server's log when it does not start."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise SystemExit(f"the server did not become ready:\n{log.read_text()}")


def run_locust(url: str, directory: Path, num_users: int, duration_s: int) -> list[Endpoint]:
    """Run Locust without its web page. Returns the figures of each endpoint and, last, of all together."""
    command = [sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--headless", "--only-summary"]
    command += ["--users", str(num_users), "--spawn-rate", str(num_users), "--run-time", f"{duration_s}s"]
    command += ["--host", url, "--json-file", str(directory / "locust"), "--exit-code-on-error", "0"]
    environment = os.environ | {"TWOTOWER_HISTORIES": str(directory / "histories.jsonl")}
    # Locust imports modules relative to its working directory.
    finished = subprocess.run(command, env=environment, cwd=LOCUSTFILE.parents[1], capture_output=True, text=True, check=False)
    said = finished.stdout + finished.stderr
    if finished.returncode:
        raise SystemExit(f"Locust failed:\n{said}")
    entries: list[Json] = json.loads((directory / "locust.json").read_text())
    if not entries:
        raise SystemExit(f"Locust made no request:\n{said}")
    if any(e["num_failures"] for e in entries):
        print(said, file=sys.stderr)
    return [*(Endpoint.of(e["name"], [e]) for e in entries), Endpoint.of("all", entries)]


def endpoint_table(endpoints: Sequence[Endpoint]) -> TextTable:
    """The figures of each endpoint as a table."""
    table = TextTable("endpoint", title="load test")
    for heading in ("requests", "failures", "requests/s", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="right")
    for e in endpoints:
        table.add_row(
            e.name, f"{e.num_requests:,}", f"{e.num_failures:,}", f"{e.requests_per_s:.1f}", f"{e.p50_ms:g}", f"{e.p99_ms:g}"
        )
    return table


def report_rows(endpoints: Sequence[Endpoint], p99_ms: float, max_failure_ratio: float) -> list[Row]:
    """The figures for the report, two of them with limits."""
    by_name = {e.name: e for e in endpoints}
    total, recommend, events = by_name["all"], by_name["/v1/recommend"], by_name["/v1/events"]
    return [
        Row(metric="requests_per_s", value=total.requests_per_s, unit="1/s", better="higher"),
        Row(metric="recommend_p50", value=recommend.p50_ms, unit="ms", better="lower"),
        Row(metric="recommend_p99", value=recommend.p99_ms, unit="ms", better="lower", must=p99_ms),
        Row(metric="events_p50", value=events.p50_ms, unit="ms", better="lower"),
        Row(metric="events_p99", value=events.p99_ms, unit="ms", better="lower"),
        Row(
            metric="failure_ratio",
            value=total.num_failures / total.num_requests,
            unit="",
            better="lower",
            must=max_failure_ratio,
        ),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
