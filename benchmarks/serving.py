"""Serving speed: CPU time of a request, the gain from reading only new events, and throughput on one core beside competitors.

Uses real histories and the demo's model and catalogue. A visit is five requests of one user, with a new event between two of
them. In `cold` every request is the only one of another user. Every server gets one core, and the load generator another.
Capacity is the throughput, in requests/s, of the fastest closed loop whose p99 latency is within 50 ms. Each section can be run
alone; its rows then replace those of the last report.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple, TypeVar

import msgspec

from benchmarks.demo import OUT as DEMO
from benchmarks.report import Row, merged, read_rows, write_report
from benchmarks.serving_load.known_users import measure_known, two_versions
from benchmarks.serving_load.swaps import NUM_SWAPS, SERVER_SETTINGS, Swapped, measure_swaps, two_releases
from benchmarks.serving_rivals.in_process import Appended, ColdRead, Visited
from benchmarks.training_rivals.corpus import Corpus, run_twotower
from benchmarks.training_rivals.environment import peer_python
from loadtests.capacity import LIMIT_MS, SPARE, Load, Probe, capacity, loading, quantile
from loadtests.generator import Measured, Open, Work
from loadtests.server_process import CORES, SERVER_CORES, pinned, running, threads
from loadtests.traffic import write_histories
from twotower.artefacts.bundle import load_bundle

NUM_HISTORIES = 200  # real histories, each replayed under many user ids
LITSERVE, LITSERVE_VENV = Path(__file__).parent / "serving_rivals" / "litserve.txt", Path("build/peers/litserve")
FRAMEWORK_CONNECTIONS, FRAMEWORK_PAIRS = 4, 5
FRAMEWORK_USERS = 100.0  # requests/s that users are made for; they ask again and again
OVERLOAD, OVERLOAD_S = 10, 8.0  # load as a multiple of the capacity, and seconds of it
TIMEOUT_MS, PATIENCE_MS = 90, 100.0  # of the server, and of the client, which waits longer for the network
Struct = TypeVar("Struct", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Material:
    """The inputs of all measurements, and a temporary directory."""

    data: Corpus
    bundle: Path
    directory: Path

    @property
    def store(self) -> Path:
        """The release store, which holds one release."""
        return self.directory / "store"

    @property
    def histories(self) -> Path:
        """Real histories, one JSON line for each user."""
        return self.directory / "histories.jsonl"


class Capacities(NamedTuple):
    """The capacity of a system under both workloads."""

    visits: Probe
    cold: Probe


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; 1 when a figure misses its must."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=main.__doc__)
    parser.add_argument("--only", choices=SECTIONS, help="one section alone")
    parser.add_argument("--demo", type=Path, default=DEMO, help=f"what `twotower demo` left; made when missing ({DEMO})")
    args = parser.parse_args(argv)
    rows = read_rows("serving") if args.only else []
    with tempfile.TemporaryDirectory(prefix="serving-") as name:
        material = prepare(args.demo, Path(name))
        try:
            for section in [args.only] if args.only else SECTIONS:
                rows = merged(rows, SECTIONS[section](material))
        finally:  # what was measured before something failed
            if rows:
                write_report("serving", rows)
    return 0 if all(row.meets_must for row in rows) else 1


def prepare(demo: Path, directory: Path) -> Material:
    """The demo's bundle and data, a release made by the current code, and histories to replay."""
    if not (demo / "bundle").exists():
        run_twotower("demo", "--once", "--out", demo)
    material = Material(Corpus(demo / "data"), demo / "bundle", directory)
    signals = ("--signals", material.data.signals) if material.data.signals else ()
    inputs = ("--items", material.data.items, "--events", material.data.events, *signals)
    run_twotower("embed", "--bundle", material.bundle, *inputs, "--store", material.store)
    write_histories(material.data.events, material.histories, NUM_HISTORIES)
    return material


def framework(material: Material) -> list[Row]:
    """The cost of the server itself: an engine with a ready answer takes the place of the model. Beside it, uvicorn alone."""
    with (
        ours(material, "benchmarks.serving_rivals.null_engine") as load,
        competitor(material, sys.executable, "empty_app") as bare,
    ):
        pairs = [framework_pair(load, bare, "inline") for _ in range(FRAMEWORK_PAIRS)]
        known = [framework_pair(load, bare, "regulars") for _ in range(FRAMEWORK_PAIRS)]
    return framework_rows(pairs, known)


class FrameworkPair(NamedTuple):
    """CPU time of our server and of uvicorn alone, per request, in milliseconds."""

    ours_ms: float
    bare_ms: float


def framework_pair(load: Load, bare: Load, work: Work) -> FrameworkPair:
    """One after the other, the same requests."""
    return FrameworkPair(*(one.probe(work, FRAMEWORK_CONNECTIONS, FRAMEWORK_USERS).cpu_ms for one in (load, bare)))


def framework_rows(pairs: Sequence[FrameworkPair], known: Sequence[FrameworkPair]) -> list[Row]:
    """Medians, that of the ratio over pairs."""
    ratio, known_ratio = (median(pair.ours_ms / pair.bare_ms for pair in some) for some in (pairs, known))
    mine, my_known = (median(pair.ours_ms for pair in some) for some in (pairs, known))
    bare = median(pair.bare_ms for pair in pairs)
    return [
        Row(metric="framework_over_uvicorn", value=ratio, unit="x", better="lower", must=1.4, goal=1.2),
        Row(metric="framework_over_uvicorn_known", value=known_ratio, unit="x, users known", better="lower"),
        Row(metric="framework_cpu_ms", value=mine, unit="ms/request", better="lower", must=0.20, goal=0.13),
        Row(metric="framework_known_cpu_ms", value=my_known, unit="ms/request", better="lower"),
        Row(metric="uvicorn_cpu_ms", value=bare, unit="ms/request", better="lower"),
    ]


def append(material: Material) -> list[Row]:
    """The model alone: the time to read one new event, and the time to read the whole history."""
    measured = direct(Appended, "append", material.store, material.histories)
    speedup, by_page = measured.cold_ms / measured.append_ms, measured.cold_ms / measured.page_ms
    return [
        Row(metric="append_speedup", value=speedup, unit="x", better="higher", must=15.0, goal=30.0),
        Row(metric="append_max_error", value=measured.max_error, unit="score", better="lower", must=1e-5),
        Row(metric="append_id_mismatches", value=measured.id_mismatches, unit="users", better="lower", must=0),
        Row(metric="append_speedup_per_page", value=by_page, unit="x, anchor moved", better="higher"),
        Row(metric="offline_cpu_ms", value=measured.offline_ms, unit="ms", better="lower"),
        Row(metric="cold_cpu_ms", value=measured.cold_ms, unit="ms", better="lower"),
        Row(metric="append_cpu_ms", value=measured.append_ms, unit="ms", better="lower"),
    ]


def cold(material: Material) -> list[Row]:
    """A history of 256 events of a user of whom nothing is known, against bare matrix products in float32."""
    measured = direct(ColdRead, "cold", material.store, material.histories)
    share = measured.gemm_share
    return [
        Row(metric="cold_gemm_share", value=share, unit="of torch's products", better="higher", must=0.75, goal=0.9),
        Row(metric="cold_fastest_gemm_share", value=measured.fastest_share, unit="of the fastest products", better="higher"),
        Row(metric="torch_gemm_gflops", value=measured.torch_gflops, unit="GFLOP/s", better="higher"),
        Row(metric="numpy_gemm_gflops", value=measured.numpy_gflops, unit="GFLOP/s", better="higher"),
    ]


def compare(material: Material) -> list[Row]:
    """The capacities of our server, of the engine without HTTP, and of the competitors."""
    with ours(material) as load:
        mine = capacities(load)
    engine = direct(Visited, "visits", material.store, material.histories, str(mine.visits.connections))
    with competitor(material, sys.executable, "fastapi_server") as load:
        fastapi = capacities(load)
    with competitor(material, peer_python(LITSERVE_VENV, requirements=LITSERVE), "litserve") as load:
        litserve = capacities(load)
    return compared({"ours": mine, "fastapi": fastapi, "litserve": litserve}, engine.requests_per_s)


def compared(systems: dict[str, Capacities], engine_per_s: float) -> list[Row]:
    """Ratios first, then the figures that they are computed from."""
    mine, fastapi, litserve = (systems[name].visits.requests_per_s for name in ("ours", "fastapi", "litserve"))
    rows = [
        Row(metric="rps_vs_fastapi", value=mine / fastapi, unit="x", better="higher", must=6.0, goal=10.0),
        Row(metric="rps_vs_litserve", value=mine / litserve, unit="x", better="higher", must=2.0, goal=4.0),
        Row(metric="engine_fraction", value=mine / engine_per_s, unit="", better="higher", must=0.75, goal=0.85),
        Row(metric="engine_rps", value=engine_per_s, unit="1/s", better="higher"),
    ]
    for name, system in systems.items():
        for work, probe in system._asdict().items():
            # A competitor may exceed the limit even with one connection. Then the throughput of that connection counts.
            must = LIMIT_MS if name == "ours" else None
            rows += [
                Row(metric=f"{name}_{work}_rps", value=probe.requests_per_s, unit="1/s", better="higher"),
                Row(metric=f"{name}_{work}_connections", value=probe.connections, unit="", better="higher"),
                Row(metric=f"{name}_{work}_p50_ms", value=probe.p50_ms, unit="ms", better="lower"),
                Row(metric=f"{name}_{work}_p99_ms", value=probe.p99_ms, unit="ms", better="lower", must=must),
                Row(metric=f"{name}_{work}_cpu_ms", value=probe.cpu_ms, unit="ms/request", better="lower"),
            ]
    return rows


def overload(material: Material) -> list[Row]:
    """An open loop at 10x the capacity. Every request is of a user without cached state."""
    with ours(material) as load:
        capacity_per_s = capacity(partial(load.probe, "strangers")).requests_per_s
        rate = OVERLOAD * capacity_per_s
        load.ensure_fresh(int(SPARE * capacity_per_s * OVERLOAD_S + rate * PATIENCE_MS / 1000))
        measured = load.run(Open(work="strangers", rate=rate, seconds=OVERLOAD_S, timeout_ms=TIMEOUT_MS))
    return overloaded(measured, capacity_per_s)


def overloaded(measured: Measured, capacity_per_s: float) -> list[Row]:
    """Goodput counts answers in time only. If nothing was refused, the time of answers stands for the time to refuse."""
    in_time = sum(ms <= PATIENCE_MS for ms in measured.answered_ms)
    goodput = in_time / measured.seconds / capacity_per_s
    refusal_ms = quantile(measured.refused_ms or measured.answered_ms, 0.99)
    return [
        Row(metric="overload_goodput", value=goodput, unit="of capacity", better="higher", must=0.92, goal=0.95),
        Row(metric="overload_reject_p99_ms", value=refusal_ms, unit="ms", better="lower", must=4.0, goal=2.0),
        Row(metric="overload_offered", value=measured.num_asked / measured.seconds / capacity_per_s, unit="x", better="higher"),
        Row(metric="overload_s", value=measured.seconds, unit="s", better="higher", must=0.9 * OVERLOAD_S),
        Row(metric="overload_late_answers", value=len(measured.answered_ms) - in_time, unit="", better="lower"),
        Row(metric="overload_failed", value=measured.num_failed, unit="", better="lower", must=0),
        Row(metric="overload_generator_late_p99_ms", value=quantile(measured.late_ms, 0.99), unit="ms", better="lower"),
    ]


def swap(material: Material) -> list[Row]:
    """Hot swaps of releases under load."""
    store, releases = two_releases(material.bundle, material.data.items, material.directory)
    with ours(material, store=store, cores=CORES, environment=SERVER_SETTINGS) as load:
        return swapped(measure_swaps(load.server, load, store, releases))


def swapped(measured: Swapped) -> list[Row]:
    """The rows of the report."""
    ratio = measured.swap_p99_ms / measured.steady_p99_ms
    return [
        Row(metric="swap_failures", value=measured.num_failures, unit="", better="lower", must=0),
        Row(metric="disjoint_swap_p99_ratio", value=ratio, unit="x steady", better="lower", must=1.5),
        Row(metric="swaps", value=measured.num_swaps, unit="", better="higher", must=NUM_SWAPS),
        Row(metric="swap_steady_p99_ms", value=measured.steady_p99_ms, unit="ms", better="lower"),
        Row(metric="swap_s", value=measured.swap_s, unit="s", better="lower"),
    ]


def known(material: Material) -> list[Row]:
    """Users who come back, while releases of one bundle are swapped, and after a restart."""
    title = load_bundle(material.bundle).towers.schema.items.title
    assert title is not None, "the demo's items have titles"
    store, releases = two_versions(material.bundle, material.data.items, title, material.directory)
    settings = SERVER_SETTINGS | {"TWOTOWER_USER_CACHE_DIR": str(material.directory / "states")}
    history = material.directory / "known.db"
    start = partial(ours, material, store=store, cores=CORES, environment=settings, history=history)
    measured = measure_known(start, store, releases)
    ratio = measured.swap_p99_ms / measured.steady_p99_ms
    restart = measured.restart_cold_share
    return [
        Row(metric="swap_p99_ratio", value=ratio, unit="x steady", better="lower", must=1.3, goal=1.1),
        Row(metric="swap_cold_share", value=measured.swap_cold_share, unit="", better="lower", must=0.05, goal=0.02),
        Row(metric="swap_part_share", value=measured.swap_part_share, unit="", better="lower"),
        Row(metric="restart_cold_share", value=restart, unit="", better="lower", must=0.05, goal=0.02),
        Row(metric="known_swaps", value=measured.num_swaps, unit="", better="higher", must=NUM_SWAPS),
        Row(metric="known_failures", value=measured.num_failures, unit="", better="lower", must=0),
        Row(metric="known_steady_p99_ms", value=measured.steady_p99_ms, unit="ms", better="lower"),
    ]


SECTIONS: dict[str, Callable[[Material], list[Row]]] = {
    "framework": framework,
    "append": append,
    "cold": cold,
    "compare": compare,
    "overload": overload,
    "swap": swap,
    "known": known,
}


@contextmanager
def ours(
    material: Material,
    module: str = "twotower.cli",
    store: Path | None = None,
    cores: Sequence[int] = SERVER_CORES,
    environment: dict[str, str] | None = None,
    history: Path | None = None,
) -> Iterator[Load]:
    """Our server with an empty history store unless one is given, and a load generator for it."""
    with tempfile.TemporaryDirectory(dir=material.directory) as name:
        serve = ("serve",) if module == "twotower.cli" else ()
        options = ("--store", store or material.store, "--history", f"sqlite:///{history or f'{name}/history.db'}")
        log = material.directory / "server.log"

        def command(port: int) -> list[str | Path]:
            return [sys.executable, "-m", module, *serve, *options, "--port", str(port)]

        with running(command, log, cores, environment or {}) as server, loading(server, material.histories) as load:
            yield load


@contextmanager
def competitor(material: Material, python: str | Path, module: str) -> Iterator[Load]:
    """A competitor's server, and a load generator for it."""
    log = material.directory / f"{module}.log"

    def command(port: int) -> list[str | Path]:
        return [
            python,
            "-m",
            f"benchmarks.serving_rivals.{module}",
            material.store,
            str(port),
            material.directory / f"{module}.db",
        ]

    with running(command, log) as server, loading(server, material.histories) as load:
        yield load


def capacities(load: Load) -> Capacities:
    """The capacities of a new server under both workloads."""
    return Capacities(visits=capacity(partial(load.probe, "visits")), cold=capacity(partial(load.probe, "strangers")))


def direct(answer: type[Struct], *arguments: str | Path) -> Struct:
    """Run `benchmarks.serving_rivals.in_process` on the core of the servers, and return its measurements."""
    command = [sys.executable, "-m", "benchmarks.serving_rivals.in_process", *arguments]
    with pinned(SERVER_CORES):
        finished = subprocess.run(command, env=os.environ | threads(1), stdout=subprocess.PIPE, check=True)
    return msgspec.json.decode(finished.stdout, type=answer)


if __name__ == "__main__":
    sys.exit(main())
