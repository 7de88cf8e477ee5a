"""`twotower train RECIPE`: events, items and schema -> model bundle."""

import argparse
from pathlib import Path


def main(argv: list[str]) -> int:
    """Train a recipe and write the bundle."""
    from training.recipes import RECIPES

    parser = argparse.ArgumentParser(prog="twotower train", description=main.__doc__)
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--events", type=Path, required=True, help="Parquet file, or a directory of them")
    parser.add_argument("--items", type=Path, required=True, help="Parquet file, or a directory of them")
    parser.add_argument("--schema", type=Path, required=True, help="schema.toml")
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="directory to write; must not exist")
    parser.add_argument("--minutes", type=float, help="time for training, instead of the recipe's own")
    args = parser.parse_args(argv)

    from training.run import run
    from twotower.progress import say
    from twotower.schema import load_schema

    recipe = RECIPES[args.recipe]
    config = recipe(args.minutes) if args.minutes is not None else recipe()
    run(config, args.events, args.items, load_schema(args.schema), args.out)
    say(f"bundle written to {args.out}")
    say(f"next: twotower embed --bundle {args.out} --items {args.items} --events {args.events} --store STORE")
    return 0
