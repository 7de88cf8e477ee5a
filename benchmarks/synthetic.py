"""How fast synthetic behaviour is written, and how much memory that takes however many events there are."""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Row, write_report
from training.corpora.behaviour import Dials, prepare

EVENTS_PER_USER, NUM_ITEMS, NUM_KINDS = 100, 20_000, 200
MUST_EVENTS_S = 1e6


def main(argv: Sequence[str] | None = None) -> int:
    """Write events in a separate process. Exit status 1 when that is slower than a million a second."""
    parser = argparse.ArgumentParser(prog="synthetic", description=__doc__)
    parser.add_argument("--events", type=float, default=1e7, help="events to write (default: 1e7)")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        print(json.dumps(measured(int(args.events))))
        return 0
    command = [sys.executable, "-m", "benchmarks.synthetic", "--measure", "--events", str(args.events)]
    figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    rows = [
        Row(metric="events_per_s", value=figures["events_per_s"], unit="events/s", better="higher", must=MUST_EVENTS_S),
        Row(metric="peak_memory", value=figures["peak_mb"], unit="MB above the interpreter", better="lower"),
        Row(metric="events", value=figures["events"], unit="events", better="higher"),
    ]
    write_report("synthetic", rows)
    return 0 if all(row.meets_must for row in rows) else 1


def measured(num_events: int) -> dict[str, float]:
    """Events a second, and the peak of the resident set above what it was before, in MB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    dials = Dials(
        num_users=max(num_events // EVENTS_PER_USER, 1), events_per_user=EVENTS_PER_USER, num_items=NUM_ITEMS, num_kinds=NUM_KINDS
    )
    with tempfile.TemporaryDirectory(prefix="synthetic-") as directory:
        begun = time.perf_counter()
        written, _ = prepare(dials, Path(directory))
        seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"events": written, "events_per_s": written / seconds, "peak_mb": (peak - before) / 1024}


if __name__ == "__main__":
    sys.exit(main())
