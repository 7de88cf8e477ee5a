"""`twotower validate`: report problems of the data, by column, and their cost."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.data.inspect_items import Finding


def main(argv: list[str]) -> int:
    """Read all files and report problems. Exit status 1 when training would refuse the data."""
    parser = argparse.ArgumentParser(prog="twotower validate", description=main.__doc__)
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--schema", type=Path, required=True)
    parser.add_argument("--signals", type=Path, help="needed when the schema names signals")
    parser.add_argument("--hide-users", action="store_true", help="name no user, for logs that are kept")
    args = parser.parse_args(argv)

    from training.data.inspect import inspect
    from twotower.data.schema import load_schema

    findings = inspect(args.events, args.items, load_schema(args.schema), args.signals, args.hide_users)
    print_findings(findings)
    errors = sum(f.level == "error" for f in findings)
    if errors:
        print(f"{errors} error{'s' * (errors > 1)}: training would refuse this data")
    else:
        print("training can use this data")
    return 1 if errors else 0


def print_findings(findings: "list[Finding]") -> None:
    """Print a line for each finding. A terminal folds long ones; a pipe and a file get one line each, for grep."""
    from twotower.terminal import TextTable, console, styled, visible

    shown = console()
    if not shown.is_terminal:
        for found in findings:
            print(f"{found.level:<8} {' '.join(visible(f'{found.where}: {found.what}').split())}")
        return
    table = TextTable(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for found in findings:
        style = {"error": "bold red", "warning": "yellow", "note": ""}[found.level]
        table.add_row(styled(found.level, style), styled(found.where, style) + f": {visible(found.what)}")
    shown.print(table)
