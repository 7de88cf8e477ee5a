"""`twotower sweep GRID`: many small training runs, whose results a law is fitted to."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def main(argv: list[str]) -> int:
    """Train a grid of small models and write what each measured into a ledger. Kill it and start it again as you like."""
    from training.sweeps.grids import GRIDS, LADDER

    parser = argparse.ArgumentParser(
        prog="twotower sweep",
        description=main.__doc__,
        epilog="grids: " + "; ".join(f"{name}: {grid.summary}" for name, grid in GRIDS.items()),
    )
    parser.add_argument("grid", choices=list(GRIDS))
    parser.add_argument("--events", type=Path, required=True, help="Parquet file, or a directory of them")
    parser.add_argument("--items", type=Path, required=True, help="Parquet file, or a directory of them")
    parser.add_argument("--schema", type=Path, required=True, help="schema.toml; its signals are left out")
    parser.add_argument("--ledger", type=Path, required=True, help="SQLite file to write or to continue")
    parser.add_argument("--corpus", required=True, metavar="NAME", help="what to call these data; a digest is added")
    parser.add_argument("--flops", required=True, metavar="NUM,NUM", help="budgets, such as 1e11,3e11,1e12")
    parser.add_argument("--shapes", default=",".join(LADDER), metavar="WxL,WxL", help="width x layers (default: %(default)s)")
    parser.add_argument("--seeds", default="0", metavar="NUM,NUM", help="one run for each (default: %(default)s)")
    parser.add_argument("--share", type=float, default=0.1, help="of the parameters, the embedder's (default: %(default)s)")
    parser.add_argument("--window", type=int, default=256, metavar="EVENTS", help="that a model reads (default: %(default)s)")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="where to compute (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, metavar="NUM", help="runs at once, a thread each (default: 2)")
    parser.add_argument("--retry", action="store_true", help="run those again that diverged or failed")
    parser.add_argument("--export", type=Path, metavar="FILE", help="also write all runs of the ledger as one Parquet file")
    args = parser.parse_args(argv)

    from msgspec.structs import replace

    from training.sweeps.corpus import Files, corpus_name
    from training.sweeps.grids import base, shape_of
    from training.sweeps.ledger import Ledger, export
    from training.sweeps.sweep import sweep
    from twotower.progress import say

    if args.workers < 1:
        raise ValueError(f"--workers is {args.workers}: give at least 1")
    files = Files(args.events, args.items, args.schema)
    shapes, budgets = numbers("--shapes", args.shapes, shape_of), numbers("--flops", args.flops, positive)
    start = replace(base(corpus_name(args.corpus, files), shapes[0], args.window), share=args.share)
    planned = GRIDS[args.grid].points(start, budgets, shapes, numbers("--seeds", args.seeds, int))
    if not planned:
        raise ValueError("no shape reads a sensible number of events at these budgets: give other --shapes or --flops")
    with Ledger(args.ledger) as ledger:
        if args.retry:
            say(f"  {ledger.forget(('diverged', 'failed'))} runs are tried again")
        runs = sweep(ledger, planned, files, args.engine, args.workers)
        if args.export:
            export(ledger.runs(), args.export)
    done = sum(run.outcome == "done" and not run.excluded for run in runs)
    say(f"{done} of {len(runs)} runs can be fitted; next: twotower fit --ledger {args.ledger}")
    return 0


def numbers(option: str, text: str, read: Callable[[str], T]) -> list[T]:
    """Values separated by commas. ValueError names the option."""
    try:
        return [read(part.strip()) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"{option} {text}: {error}") from error


def positive(text: str) -> float:
    """A positive number."""
    if not (value := float(text)) > 0:
        raise ValueError(f"{text} is not positive")
    return value
