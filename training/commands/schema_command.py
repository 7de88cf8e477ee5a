"""`twotower schema infer`: write a first schema.toml, guessed from the names, types and values of columns."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.data.infer import Guess

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

    guess = infer_schema(args.events, args.items)
    if args.out is None:
        print(guess.text(), end="")
        return 0
    write_guess(guess, args.out)
    print(f"{args.out} written: read it, correct it, then run `twotower validate`")
    return 0


def write_guess(guess: "Guess", out: Path) -> None:
    """Write a guessed schema to a new file, and say what it leaves out."""
    from twotower.errors import EnvironmentProblem
    from twotower.progress import say
    from twotower.terminal import visible

    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(guess.text())
    except OSError as error:
        raise EnvironmentProblem(f"cannot write {out}: {error.strerror or error}") from error
    for note in guess.notes:
        say(f"  {note}")
    for column in guess.left_out[:MOST_LINES]:
        say(f"  left out: {column.table}.{visible(column.name)}: {visible(column.why)}")
    if len(guess.left_out) > MOST_LINES:
        say(f"  and {len(guess.left_out) - MOST_LINES} more columns left out, listed in {out}")
