"""How fast `read events` is: events per second of the reading before training, on the demo's log.

Each repetition is a process of its own. Seconds of the processor are reported beside those of the clock, because they change
less when the machine does other work.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Row, write_report

DATA = Path("build/bench/demo-run/data")  # `make bench NAME=demo` leaves it
CONTEXT_ROWS = 256


def measure(data: Path) -> dict[str, float]:
    """Events of the log, and the seconds that reading them into sorted histories takes."""
    from training.data.event_log import read_event_log
    from twotower.data.schema import load_schema
    from twotower.model.catalogue import read_item_ids

    schema = load_schema(data / "schema.toml")
    item_ids = read_item_ids(data / "items.parquet", schema.items)
    clock_s, processor_s = time.monotonic(), time.process_time()
    log = read_event_log(data / "events.parquet", schema, item_ids, CONTEXT_ROWS)
    return {
        "events": float(log.report.num_events),
        "clock_s": time.monotonic() - clock_s,
        "processor_s": time.process_time() - processor_s,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure in separate processes and report."""
    parser = argparse.ArgumentParser(prog="reading", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="directory with events.parquet, items.parquet and schema.toml")
    parser.add_argument("--repeat", type=int, default=5, help="processes to measure in; the fastest counts")
    parser.add_argument("--measure", action="store_true", help="measure in this process and print JSON")
    args = parser.parse_args(argv)
    if args.measure:
        print(json.dumps(measure(args.data)))
        return 0
    command = [sys.executable, "-m", "benchmarks.reading", "--measure", "--data", str(args.data)]
    runs = [json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) for _ in range(args.repeat)]
    write_report("reading", rows_of(runs))
    return 0


def rows_of(runs: Sequence[dict[str, float]]) -> list[Row]:
    """The figures of several repetitions."""
    clock = [run["events"] / run["clock_s"] for run in runs]
    processor = [run["events"] / run["processor_s"] for run in runs]
    return [
        Row(metric="read_events_per_s", value=max(clock), unit="events/s", better="higher"),
        Row(metric="read_events_per_s_median", value=statistics.median(clock), unit="events/s", better="higher"),
        Row(metric="read_events_per_processor_s", value=max(processor), unit="events/s of processor time", better="higher"),
    ]


if __name__ == "__main__":
    sys.exit(main())
