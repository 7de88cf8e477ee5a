"""`twotower laws`: draw every figure of a ledger again."""

import argparse
from pathlib import Path

MEASURED = Path(__file__).parents[1] / "laws" / "measured.parquet"
PAGE = "laws.html"


def main(argv: list[str]) -> int:
    """Draw the figures of all laws that a ledger allows, of every corpus in it: a page, and each figure as an SVG file."""
    parser = argparse.ArgumentParser(prog="twotower laws", description=main.__doc__)
    parser.add_argument(
        "--ledger", type=Path, default=MEASURED, help="file that `twotower sweep` wrote (default: the runs of docs/laws.md)"
    )
    parser.add_argument("--out", type=Path, default=Path("laws"), metavar="DIR", help="(default: %(default)s)")
    args = parser.parse_args(argv)

    from training.report.law_page import laws_page
    from training.sweeps.ledger import read_runs
    from twotower.report.page import save, written_to
    from twotower.report.svg import standalone

    text, drawings = laws_page(read_runs(args.ledger), "Scaling laws, measured")
    written_to(args.out, lambda: args.out.mkdir(parents=True, exist_ok=True))
    files = {PAGE: text} | {f"{name}.svg": standalone(drawing) for name, drawing in drawings.items()}
    for name, content in files.items():
        save(args.out / name, content)
    print(f"{args.out / PAGE}, and {len(drawings)} figures")
    return 0
