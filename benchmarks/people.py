"""What people see and use: the playground in a browser, searches that steer, and the public Python client behaviorgpt.

Sections can be run alone; their rows then replace those of the last report.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.browser import searches
from benchmarks.browser.chromium import browser
from benchmarks.browser.playground import first_paints_ms, percentile, refreshes_ms
from benchmarks.client_calls.calls import CALLS
from benchmarks.client_calls.catalogue_file import write_catalogue
from benchmarks.client_calls.replies import made_by_async_client, made_by_sync_client, num_passed
from benchmarks.demo import OUT as DEMO
from benchmarks.report import Row, merged, read_rows, write_report
from benchmarks.training_rivals.corpus import run_twotower
from loadtests.server_process import CORES, running
from twotower.data.schema import load_schema

NUM_CLICKS = 120
NUM_UPLOADED = 2000  # items of the catalogue that the client uploads


@dataclass(frozen=True, slots=True)
class Bench:
    """What all sections share."""

    demo: Path  # what `twotower demo` left: data, bundle, store and histories
    directory: Path  # of this run, for logs and copies


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; 1 when a figure misses its must."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.people", description=main.__doc__)
    parser.add_argument("--only", choices=SECTIONS, help="one section alone")
    parser.add_argument("--demo", type=Path, default=DEMO, help=f"what `twotower demo` left; made when missing ({DEMO})")
    args = parser.parse_args(argv)
    rows = read_rows("people") if args.only else []
    if not (args.demo / "store").exists():
        run_twotower("demo", "--once", "--out", args.demo)
    with tempfile.TemporaryDirectory(prefix="people-") as name:
        bench = Bench(args.demo, Path(name))
        try:
            for section in [args.only] if args.only else SECTIONS:
                rows = merged(rows, SECTIONS[section](bench))
        finally:  # what was measured before something failed
            if rows:
                write_report("people", rows)
    return 0 if all(row.meets_must for row in rows) else 1


def page(bench: Bench) -> list[Row]:
    """The playground on the demo's release: server and browser share the machine's cores."""
    history = bench.directory / "history.db"

    def serve(port: int) -> list[str]:
        command = [sys.executable, "-m", "twotower.cli", "serve", "--store", str(bench.demo / "store"), "--port", str(port)]
        return [*command, "--history", f"sqlite:///{history}"]

    with running(serve, bench.directory / "service.log", CORES) as server, browser() as chromium:
        url = f"http://127.0.0.1:{server.port}/"
        paints, num_bytes = first_paints_ms(chromium, url)
        with chromium.page() as tab:
            refreshes = refreshes_ms(tab, url, NUM_CLICKS)
    return [
        Row(metric="first_paint_ms", value=max(paints), unit="ms", better="lower", must=1000),
        Row(metric="page_kb", value=num_bytes / 1000, unit="kB", better="lower", must=500),
        Row(metric="refresh_p50_ms", value=percentile(refreshes, 0.5), unit="ms", better="lower"),
        Row(metric="refresh_p95_ms", value=percentile(refreshes, 0.95), unit="ms", better="lower", must=150),
    ]


def wire(bench: Bench) -> list[Row]:
    """A hundred calls of the client's two classes, on the demo's release. They upload a part of the demo's catalogue."""
    schema, file = load_schema(bench.demo / "data" / "schema.toml"), bench.directory / "groceries.parquet"
    write_catalogue(pq.read_table(bench.demo / "data" / "items.parquet").slice(0, NUM_UPLOADED), schema, file)

    def serve(port: int) -> list[str | Path]:
        command: list[str | Path] = [sys.executable, "-m", "twotower.cli", "serve", "--store", bench.demo / "store"]
        return [*command, "--port", str(port), "--history", f"sqlite:///{bench.directory / 'wire.db'}", "--behaviorgpt"]

    environment = {"TWOTOWER_BEHAVIORGPT_DIR": str(bench.directory / "catalogues")}
    with running(serve, bench.directory / "wire.log", CORES, environment) as server:
        address = f"http://127.0.0.1:{server.port}"
        outcomes = made_by_sync_client(address, file), made_by_async_client(address, file)
    for problems in outcomes:
        for call, problem in problems.items():
            if problem:
                print(f"{call}: {problem}", file=sys.stderr)
    passed, goal = num_passed(*outcomes), 2 * len(CALLS)
    return [Row(metric="client_calls_passed", value=passed, unit="calls", better="higher", must=40, goal=goal)]


def search(bench: Bench) -> list[Row]:
    """A search at the end of a household's history: is its product type among the ten best items?"""
    history = bench.directory / "searched.db"

    def serve(port: int) -> list[str]:
        command = [sys.executable, "-m", "twotower.cli", "serve", "--store", str(bench.demo / "store"), "--port", str(port)]
        return [*command, "--history", f"sqlite:///{history}"]

    with running(serve, bench.directory / "searched.log", CORES) as server:
        answers = list(searches.ask(f"http://127.0.0.1:{server.port}/", bench.demo / "data"))

    def share(name: str, is_there: Callable[[searches.Found], float], chosen: Sequence[bool] = (True, False)) -> Row:
        values = [is_there(found) for asked, found in answers if asked.is_common in chosen]
        goal = 0.9 if name == "search_type_in_top10" else None
        return Row(metric=name, value=sum(values) / len(values), unit="", better="higher", goal=goal)

    return [
        share("search_type_in_top10", lambda found: found.searched > 0),
        share("search_common_type_in_top10", lambda found: found.searched > 0, [True]),
        share("search_rare_type_in_top10", lambda found: found.searched > 0, [False]),
        share("search_share_of_top10", lambda found: found.searched / 10),
        share("search_type_in_top10_without_search", lambda found: found.without > 0),
        share("search_type_in_top10_by_text_alone", lambda found: found.by_text > 0),
    ]


SECTIONS: dict[str, Callable[[Bench], list[Row]]] = {"page": page, "search": search, "wire": wire}

if __name__ == "__main__":
    sys.exit(main())
