"""`twotower fit`: fit a scaling law to the isoFLOP runs of a ledger."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twotower.planning.law import Interval, MetricLaw


def main(argv: list[str]) -> int:
    """Fit a law to every metric of a sweep's runs, with 95 % intervals. Runs that diverged or are excluded are left out."""
    parser = argparse.ArgumentParser(prog="twotower fit", description=main.__doc__)
    parser.add_argument("--ledger", type=Path, required=True, help="file that `twotower sweep` wrote, SQLite or Parquet")
    parser.add_argument("--corpus", metavar="NAME", help="needed if the ledger mixes several; the beginning of a name is enough")
    parser.add_argument("--metric", action="append", metavar="NAME", help="only this metric; may be given several times")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the law, which `twotower plan --law` reads")
    parser.add_argument("--page", type=Path, metavar="FILE.html", help="write a page with all figures that the ledger allows")
    parser.add_argument("--json", action="store_true", help="the law as JSON on stdout")
    args = parser.parse_args(argv)

    import msgspec

    from training.laws.fitting import fit_ledger
    from training.report.law_page import laws_page
    from training.sweeps.ledger import read_runs
    from twotower.planning.law import write_law
    from twotower.report.page import save, written_to

    runs = read_runs(args.ledger)
    law, _, chosen = fit_ledger(runs, args.corpus, args.metric)
    if args.out:
        written_to(args.out, lambda: write_law(law, args.out))
    if args.page:
        text, _ = laws_page(runs, f"Scaling laws of {args.ledger.name}", chosen.corpus)
        save(args.page, text)
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(law)).decode())
        return 0
    print(f"{len(chosen.runs)} runs on {chosen.corpus}, {law.smallest_flops:.3g} to {law.largest_flops:.3g} FLOPs")
    if left_out := chosen.sentence():
        print(left_out)
    for name, one in law.metrics.items():
        print("\n".join(["", name, *(f"  {line}" for line in lines_of(name, one))]))
    for path in (args.out, args.page):
        if path:
            print(f"\nwrote {path}")
    return 0


def lines_of(name: str, law: "MetricLaw") -> list[str]:
    """What the terminal says of one metric."""
    from twotower.planning.compute_optimal import short

    lines = []
    for one in law.optima:
        lines.append(
            f"{one.flops:.3g} FLOPs: N* {counted(one.parameters)}, D* {short(one.events.value)}, {name} {one.metric:.4g}, "
            f"{one.num_runs} runs"
        )
    if law.parameters and law.events:
        bootstrap = f"; from the noise of runs alone {law.parameters.bootstrap}" if law.parameters.bootstrap else ""
        lines.append(f"N* grows as C^{law.parameters.exponent}, D* as C^{law.events.exponent}{bootstrap}")
    if law.surface:
        found, error = law.surface, law.surface.held_out_error
        lines.append(f"surface: N* grows as C^{found.size_exponent}; alpha {found.alpha}, beta {found.beta}, E {found.E}")
        held_out = "" if error is None else f"; fitted without the largest budget it is {error:.2%} off there"
        lines.append(f"a run lies {found.relative_noise:.2%} around the surface{held_out}")
    return [*lines, *(f"note: {problem}" for problem in law.missing)]


def counted(within: "Interval") -> str:
    """A count with its interval."""
    from training.report.law_tables import counted as cell

    return cell(within)
