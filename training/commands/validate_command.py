"""`twotower validate`: report problems of the data, by column, and their cost."""

import argparse
from pathlib import Path


def main(argv: list[str]) -> int:
    """Read all files and report problems. Exit status 1 when training would refuse the data."""
    parser = argparse.ArgumentParser(prog="twotower validate", description=main.__doc__)
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--schema", type=Path, required=True)
    parser.add_argument("--signals", type=Path, help="needed when the schema names signals")
    args = parser.parse_args(argv)

    from rich.console import Console
    from rich.table import Table

    from training.data.inspect import inspect
    from twotower.data.schema import load_schema

    findings = inspect(args.events, args.items, load_schema(args.schema), args.signals)
    table = Table("level", "where", "what")
    styles = {"error": "bold red", "warning": "yellow", "note": "dim"}
    for finding in findings:
        table.add_row(finding.level, finding.where, finding.what, style=styles[finding.level])
    Console().print(table)
    errors = sum(f.level == "error" for f in findings)
    print(f"{errors} errors: training would refuse this data" if errors else "training can use this data")
    return 1 if errors else 0
