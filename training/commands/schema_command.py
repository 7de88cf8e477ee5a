"""`twotower schema infer`: write a first schema.toml, guessed from column names and types."""

import argparse
from pathlib import Path


def main(argv: list[str]) -> int:
    """Write a first schema.toml; read it, correct it, then run `twotower validate`."""
    parser = argparse.ArgumentParser(prog="twotower schema", description=main.__doc__)
    parser.add_argument("action", choices=["infer"])
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="file to write (default: stdout)")
    args = parser.parse_args(argv)

    from training.data.inspect import infer_schema
    from twotower.data.schema import dump_schema
    from twotower.errors import EnvironmentProblem

    text = dump_schema(infer_schema(args.events, args.items))
    if args.out is None:
        print(text, end="")
        return 0
    try:
        with args.out.open("x") as file:
            file.write(text)
    except OSError as error:
        raise EnvironmentProblem(f"cannot write {args.out}: {error.strerror or error}") from error
    print(f"{args.out} written: read it, correct it, then run `twotower validate`")
    return 0
