"""`twotower prepare complete-journey`: real purchases as events.parquet, items.parquet and schema.toml."""

import argparse
from pathlib import Path


def main(argv: list[str]) -> int:
    """Write a public corpus in the form that training reads."""
    parser = argparse.ArgumentParser(prog="twotower prepare", description=main.__doc__)
    parser.add_argument("corpus", choices=["complete-journey"])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(argv)

    from training.complete_journey import prepare
    from twotower.progress import say, step

    with step("prepare complete-journey"):
        num_events, num_items = prepare(args.out)
    say(f"{num_events:,} events and {num_items:,} items written to {args.out}")
    return 0
