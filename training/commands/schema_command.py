"""`twotower schema infer`: write a first schema.toml, guessed from the names, types and values of columns."""

import argparse
from pathlib import Path

MOST_LINES = 20  # columns that are left out, shown on the terminal; schema.toml lists all


def main(argv: list[str]) -> int:
    """Write a first schema.toml; read it, correct it, then run `twotower validate`."""
    parser = argparse.ArgumentParser(prog="twotower schema", description=main.__doc__)
    parser.add_argument("action", choices=["infer"])
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="file to write (default: stdout)")
    args = parser.parse_args(argv)

    from training.data.infer import infer_schema
    from twotower.errors import EnvironmentProblem
    from twotower.progress import say
    from twotower.terminal import visible

    guess = infer_schema(args.events, args.items)
    if args.out is None:
        print(guess.text(), end="")
        return 0
    try:
        with args.out.open("x", encoding="utf-8") as file:
            file.write(guess.text())
    except OSError as error:
        raise EnvironmentProblem(f"cannot write {args.out}: {error.strerror or error}") from error
    for note in guess.notes:
        say(f"  {note}")
    for column in guess.left_out[:MOST_LINES]:
        say(f"  left out: {column.table}.{visible(column.name)}: {visible(column.why)}")
    if len(guess.left_out) > MOST_LINES:
        say(f"  and {len(guess.left_out) - MOST_LINES} more columns left out, listed in {args.out}")
    print(f"{args.out} written: read it, correct it, then run `twotower validate`")
    return 0
