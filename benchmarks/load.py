"""Operation under load: the verdict at 60 % of the capacity, whether a slowed server is seen, a rolling restart, a week, a soak.

Uses the demo's model and real histories. The server has one core, and the generators another. Sections can be run alone; their
rows then replace those of the last report.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import week
from benchmarks.demo import OUT as DEMO
from benchmarks.report import Row, merged, read_rows, write_report
from benchmarks.training_rivals.corpus import Corpus, run_twotower
from loadtests.gate import gate
from loadtests.held import read_looks, slopes
from loadtests.outcomes import read_outcomes
from loadtests.profiles import PROFILES
from loadtests.rolling import roll
from loadtests.run import NUM_HISTORIES, load
from loadtests.server_process import GENERATOR_CORES, pinned
from loadtests.traffic import read_histories, write_histories

OUT = Path("build/bench/load")
SLOWED_MS = 40  # sleep before each batch of the slowed server
SLOWED_S = 15.0  # the slowed server is loaded for so long by each generator
ROLLING_SHARE = 0.1  # of the capacity of a core, on which two servers work while others start
SOAK_S = 600.0


@dataclass(slots=True)
class Bench:
    """What all sections share."""

    demo: Path
    store: Path
    directory: Path
    soak_s: float
    capacity_per_s: float | None = None  # measured by the first section that needs it

    @property
    def events(self) -> Path:
        """The log whose histories are replayed."""
        return self.demo / "data" / "events.parquet"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; 1 when a figure misses its must."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=main.__doc__)
    parser.add_argument("--only", choices=SECTIONS, help="one section alone")
    parser.add_argument("--demo", type=Path, default=DEMO, help=f"what `twotower demo` left; made when missing ({DEMO})")
    parser.add_argument("--soak-seconds", type=float, default=SOAK_S, help="length of the soak (600)")
    args = parser.parse_args(argv)
    rows = read_rows("load") if args.only else []
    with tempfile.TemporaryDirectory(prefix="load-") as name:
        bench = prepare(args.demo, Path(name), args.soak_seconds)
        try:
            for section in [args.only] if args.only else SECTIONS:
                rows = merged(rows, SECTIONS[section](bench))
        finally:  # what was measured before something failed
            if rows:
                write_report("load", rows)
    return 0 if all(row.meets_must for row in rows) else 1


def prepare(demo: Path, directory: Path, soak_s: float) -> Bench:
    """The demo's bundle and data, and a release made by the current code."""
    if not (demo / "bundle").exists():
        run_twotower("demo", "--once", "--out", demo)
    data, store = Corpus(demo / "data"), directory / "store"
    signals = ("--signals", data.signals) if data.signals else ()
    run_twotower("embed", "--bundle", demo / "bundle", "--items", data.items, "--events", data.events, *signals, "--store", store)
    return Bench(demo, store, directory, soak_s)


def steady(bench: Bench) -> list[Row]:
    """The gate at 60 % of the measured capacity."""
    bench.capacity_per_s = load(PROFILES["steady"], bench.store, bench.events, OUT / "steady")
    passed = gate("steady", OUT / "steady")
    rows = [
        Row(metric="gate_pass", value=float(passed), unit="", better="higher", must=1),
        Row(metric="capacity", value=bench.capacity_per_s, unit="requests/s", better="higher"),
    ]
    for outcomes in read_outcomes(OUT / "steady", "steady"):
        figures = outcomes.figures()
        for name in ("p50_ms", "p99_ms", "p999_ms"):
            rows.append(Row(metric=f"{outcomes.generator}_{name}", value=figures[name], unit="ms", better="lower"))
    return rows


def slowed(bench: Bench) -> list[Row]:
    """The gate at the same load, with a server that a failpoint slows. It must fail."""
    module = ("loadtests.slowed_server", str(SLOWED_MS))
    profile = PROFILES["steady"].lasting(SLOWED_S)
    load(profile, bench.store, bench.events, OUT / "slowed", capacity_per_s=known_capacity(bench), module=module)
    passed = gate("steady", OUT / "slowed")
    return [Row(metric="gate_fails_when_slowed", value=float(not passed), unit="", better="higher", must=1)]


def rolling(bench: Bench) -> list[Row]:
    """A rolling restart of two servers behind a balancer."""
    histories = bench.directory / "histories.jsonl"
    write_histories(bench.events, histories, NUM_HISTORIES)
    with pinned(GENERATOR_CORES):
        rolled = roll(bench.store, read_histories(histories), bench.directory, ROLLING_SHARE * known_capacity(bench))
    return [
        Row(metric="rolling_failures", value=rolled.num_failures, unit="requests", better="lower", must=0),
        Row(metric="rolling_requests", value=rolled.num_asked, unit="requests", better="higher"),
    ]


def soak(bench: Bench) -> list[Row]:
    """Growth of memory, descriptors and threads under steady load. Flat is growth that is within its noise."""
    profile = PROFILES["soak"].lasting(bench.soak_s)
    load(profile, bench.store, bench.events, OUT / "soak", capacity_per_s=known_capacity(bench))
    gate("soak", OUT / "soak")
    grown = slopes(read_looks(OUT / "soak", "soak"))
    memory, descriptors, threads = (grown[name] for name in ("memory_mib", "descriptors", "threads"))
    return [
        Row(metric="soak_rss_slope_mb_per_min", value=memory.per_min, unit="MiB/min", better="lower", must=max(memory.noise, 0)),
        Row(metric="soak_descriptors_per_min", value=descriptors.per_min, unit="1/min", better="lower", must=descriptors.noise),
        Row(metric="soak_threads_per_min", value=threads.per_min, unit="1/min", better="lower", must=threads.noise),
        Row(metric="soak_seconds", value=bench.soak_s, unit="s", better="higher"),
    ]


def known_capacity(bench: Bench) -> float:
    """The capacity, measured by a short load if no section did before."""
    if bench.capacity_per_s is None:
        bench.capacity_per_s = load(PROFILES["smoke"].lasting(1.0), bench.store, bench.events, OUT / "capacity")
    return bench.capacity_per_s


def simulated_week(bench: Bench) -> list[Row]:
    """Seven nights of `twotower nightly` under load, by the benchmark `week`."""
    week.main(["--out", str(bench.directory / "week")])
    return [row for row in read_rows("week") if row.metric == "week_ok"]


SECTIONS: dict[str, Callable[[Bench], list[Row]]] = {
    "steady": steady,
    "slowed": slowed,
    "rolling": rolling,
    "week": simulated_week,
    "soak": soak,
}

if __name__ == "__main__":
    sys.exit(main())
