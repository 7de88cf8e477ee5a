"""`make loadtest`: start a server on this machine, load it with three generators one after the other, and judge what they saw.

With --url the load goes to a server that runs already.
"""

import argparse
import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from loadtests.crowd import WARM_S, Crowd, Target, capacity, run
from loadtests.gate import LIMITS, OUT, gate, read_limits
from loadtests.held import watching, write_looks
from loadtests.loadgen import Job
from loadtests.outcomes import SUFFIX
from loadtests.profiles import PROFILES, Plan, Profile, profile_named
from loadtests.server_process import CORES, GENERATOR_CORES, SERVER_CORES, Server, pinned, running
from loadtests.traffic import read_histories, write_histories
from twotower.artefacts.bundle import SCHEMA
from twotower.artefacts.release import current_release, release_path
from twotower.data.schema import EventColumns, load_schema

NUM_HISTORIES = 200
SERVE = ("twotower.cli", "serve")  # module and arguments
ROOT = Path(__file__).resolve().parents[1]
CONNECT_TIMEOUT_S = 5.0
GRACE_S = 60.0  # a generator is ended when it takes so much longer than its profile
# In a soak small caches, so that they are full before growth is measured.
SOAK_SETTINGS = {"TWOTOWER_USER_CACHE_MB": "16", "TWOTOWER_HISTORY_CACHE_MB": "8"}


def main(argv: Sequence[str] | None = None) -> int:
    """Load a server as a profile says, and judge it. Exit status 1 when a limit is missed, 2 when there is nothing to load."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.run", description=main.__doc__)
    parser.add_argument("profile", nargs="?", default="steady", help=f"one of {', '.join(PROFILES)} (steady)")
    parser.add_argument("--store", type=Path, default=Path("build/demo/store"), help="release store to serve")
    parser.add_argument("--events", type=Path, default=Path("build/demo/data/events.parquet"), help="histories to replay")
    parser.add_argument("--url", help="a server that runs already, such as http://127.0.0.1:8000; --store names its release")
    parser.add_argument("--key", default="", help="its API key, with the scopes recommend and events:write")
    parser.add_argument("--rate", type=float, help="capacity in requests per second, whose shares the profile sends (measured)")
    parser.add_argument("--seconds", type=float, help="length of the profile, for each generator")
    parser.add_argument("--limits", type=Path, default=LIMITS, help="file of limits (loadtests/limits.toml)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder for outcomes and page ({OUT})")
    args = parser.parse_args(argv)
    try:
        profile = profile_named(args.profile)
        read_limits(args.limits, profile.name)
        for number in (args.rate, args.seconds):
            if number is not None and not 0 < number < float("inf"):
                raise ValueError(f"{number:g} is no rate and no length: give a number above 0")
        if args.seconds:
            profile = profile.lasting(args.seconds)
        load(profile, args.store, args.events, args.out, args.url, args.key, args.rate)
        return 0 if gate(profile.name, args.out, args.limits) else 1
    except ValueError as error:
        print(f"loadtests.run: error: {error}", file=sys.stderr)
        return 2


def load(
    profile: Profile,
    store: Path,
    events: Path,
    out: Path,
    url: str | None = None,
    key: str = "",
    capacity_per_s: float | None = None,
    module: Sequence[str] = SERVE,
) -> float:
    """Load a server, ours unless `url` is given, and leave the outcomes in `out`. Returns the capacity, measured if not given.

    ValueError when something that is needed is missing.
    """
    for path in (events,) if url else (store, events):
        if not path.exists():
            raise ValueError(f"{path} does not exist: run `make demo ARGS=--once` first, or give --store and --events")
    out.mkdir(parents=True, exist_ok=True)
    for old in (*out.glob(f"{profile.name}-*{SUFFIX}"), *out.glob(f"{profile.name}-held.json")):
        old.unlink()
    with tempfile.TemporaryDirectory(prefix="loadtest-") as name, ExitStack() as stack:
        histories = Path(name) / "histories.jsonl"
        write_histories(events, histories, NUM_HISTORIES, served_columns(store))
        server, looks = None, None
        if url is None:
            settings = SOAK_SETTINGS if profile.name == "soak" else {}
            server = stack.enter_context(serving(store, Path(name), settings, module))
        target = Target("127.0.0.1", server.port) if server else Target.at(url or "", key)
        stack.enter_context(pinned(GENERATOR_CORES if server else CORES))
        crowd = Crowd.of(target, read_histories(histories), profile.habits)
        warm_up(crowd)
        if capacity_per_s is None:
            capacity_per_s = capacity(crowd.keeps_up)
            print(f"capacity: {capacity_per_s:.1f} requests/s, at which 99 % of recommendations come within 50 ms")
        if server and profile.name == "soak":
            looks = stack.enter_context(watching(server.process.pid, min(1.0, profile.seconds / 60)))
        for generator in profile.generators:
            print(f"{generator}: {profile.name}, {profile.seconds:g} s against {target.url}", flush=True)
            run_generator(generator, crowd, profile, capacity_per_s, histories, out)
        if looks is not None:
            write_looks(looks, out, profile.name)
        return capacity_per_s


def served_columns(store: Path) -> EventColumns:
    """The columns of the event log, by the schema of the release that is served."""
    release = current_release(store) if store.exists() else None
    return load_schema(release_path(store, release) / SCHEMA).events if release else EventColumns()


@contextmanager
def serving(
    store: Path, directory: Path, settings: dict[str, str], module: Sequence[str] = SERVE, log: str = "service.log"
) -> Iterator[Server]:
    """A server process on one core, with its histories in `directory`."""

    def command(port: int) -> list[str | Path]:
        history = f"sqlite:///{directory / 'history.db'}"
        return [sys.executable, "-m", *module, "--store", store, "--port", str(port), "--history", history]

    with running(command, directory / log, SERVER_CORES, settings) as server:
        yield server


def warm_up(crowd: Crowd) -> None:
    """Ask for some recommendations, which are not judged. ValueError when there is no server, or it answers none."""
    target = crowd.target
    try:
        socket.create_connection((target.host, target.port), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ValueError(f"no server answers at {target.url}: {error.strerror or error}") from None
    outcomes = run(lambda: crowd.closed(1, WARM_S), WARM_S)
    if not len(outcomes.answered_ms()):
        raise ValueError(
            f"{target.url} answers none of {len(outcomes.fates)} requests: has it a release, and is the --key right?"
        )


def run_generator(name: str, crowd: Crowd, profile: Profile, capacity_per_s: float, histories: Path, out: Path) -> None:
    """Let one generator send the load of the profile; its outcomes are in `out` then. ValueError when it fails."""
    if name == "poisson":
        run(lambda: crowd.open(profile, capacity_per_s), profile.seconds).write(out)
    elif name == "locust":
        run_locust(crowd.target, profile, capacity_per_s, histories, out)
    elif importlib.util.find_spec("mlperf_loadgen") is None:
        print("loadgen: left out, because mlcommons-loadgen is not installed (there is no wheel for this machine or Python)")
    else:
        run_loadgen(crowd.target, profile, capacity_per_s, histories, out)


def run_loadgen(target: Target, profile: Profile, capacity_per_s: float, histories: Path, out: Path) -> None:
    """Run MLPerf LoadGen in a process of its own. ValueError when it fails."""
    job = Job(
        host=target.host,
        port=target.port,
        key=target.key,
        histories=str(histories.resolve()),
        profile=profile,
        capacity_per_s=capacity_per_s,
        out=str(out.resolve()),
    )
    finish("LoadGen", [sys.executable, "-m", "loadtests.loadgen"], profile, msgspec.json.encode(job), {})


def run_locust(target: Target, profile: Profile, capacity_per_s: float, histories: Path, out: Path) -> None:
    """Run Locust without its page. ValueError when it fails."""
    plan = Plan(profile=profile, capacity_per_s=capacity_per_s, key=target.key, out=str(out.resolve()))
    command = [sys.executable, "-m", "locust", "--locustfile", str(ROOT / "loadtests" / "locustfile.py"), "--headless"]
    command += ["--only-summary", "--host", target.url, "--exit-code-on-error", "0"]
    environment = {"TWOTOWER_HISTORIES": str(histories), "TWOTOWER_LOAD": msgspec.json.encode(plan).decode()}
    finish("Locust", command, profile, b"", environment)


def finish(name: str, command: Sequence[str], profile: Profile, told: bytes, environment: dict[str, str]) -> None:
    """Run a generator to its end. ValueError with the end of what it said when it fails or takes too long."""
    settings = os.environ | environment  # Locust imports modules relative to its working directory
    try:
        done = subprocess.run(
            command, input=told, env=settings, cwd=ROOT, capture_output=True, check=False, timeout=profile.seconds + GRACE_S
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"{name} did not end within {profile.seconds + GRACE_S:g} s") from None
    if done.returncode:
        raise ValueError(f"{name} failed: {(done.stdout + done.stderr).decode(errors='replace').strip()[-2000:]}")


if __name__ == "__main__":
    raise SystemExit(main())
