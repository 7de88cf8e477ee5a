"""The gate: reads what the generators saw, compares it with limits, and says whether the service holds.

`python -m loadtests.gate PROFILE` judges the outcomes in a folder: a table, a page, and exit status 0 when every limit is met, 1
when one is missed, 2 when there is nothing to judge or the file of limits is wrong.
"""

import argparse
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.held import read_looks, slopes
from loadtests.outcomes import Outcomes, read_outcomes
from loadtests.profiles import PROFILES, did_you_mean, profile_named
from twotower.terminal import TextTable, console, styled

LIMITS = Path(__file__).with_name("limits.toml")
OUT = Path("build/loadtest")
PAGE = "{profile}.html"
AT_LEAST = ("goodput_share", "end_goodput_share")  # of all other figures a limit is what they may be at most
FIGURES = (
    *("p50_ms", "p99_ms", "p999_ms", "error_share", "degraded_share"),
    *("refusal_p50_ms", "goodput_share", "end_goodput_share"),
)


@dataclass(frozen=True, slots=True)
class Judged:
    """One figure of one generator, and its limit if it has one."""

    generator: str
    figure: str
    value: float
    limit: float | None

    @property
    def passed(self) -> bool:
        """Whether the limit is met."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.figure in AT_LEAST else self.value <= self.limit


def read_limits(path: Path, profile: str) -> dict[str, float]:
    """The limits of a profile. ValueError when the file is missing, is no TOML, or has a name or value that is not known."""
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    for name, table in tables.items():
        if name not in PROFILES or not isinstance(table, dict):
            raise ValueError(f"{path} has {name!r}, which is no profile.{did_you_mean(name, PROFILES)}")
        for figure, limit in table.items():
            if figure not in FIGURES:
                raise ValueError(f"{path} has {figure!r} in [{name}], which is no figure.{did_you_mean(figure, FIGURES)}")
            if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 0:
                raise ValueError(f"{path} has {figure} = {limit!r} in [{name}]: give a number from 0 up")
    if not tables.get(profile):
        raise ValueError(f"{path} has no limit for the profile {profile!r}: add a table [{profile}]")
    return dict(tables[profile])


def judge(outcomes: Sequence[Outcomes], limits: dict[str, float]) -> list[Judged]:
    """Every figure of every generator beside its limit. ValueError when a generator got no answer."""
    judged = []
    for one in outcomes:
        figures = one.figures()
        judged += [Judged(one.generator, name, figures[name], limits.get(name)) for name in FIGURES if name in figures]
        if "broken" in figures:  # what LoadGen says by its own rules
            judged.append(Judged(one.generator, "broken", figures["broken"], 0.0))
            judged.append(Judged(one.generator, "unsure", figures["unsure"], None))
    return judged


def figures_table(profile: str, judged: Sequence[Judged]) -> TextTable:
    """One row for each figure."""
    table = TextTable("generator", title=f"load test {profile}")
    table.add_column("figure")
    for heading in ("measured", "limit"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for one in judged:
        sign = ">=" if one.figure in AT_LEAST else "<="
        limit = "" if one.limit is None else f"{sign} {one.limit:g}"
        mark = "" if one.limit is None else styled("met", "green") if one.passed else styled("missed", "red")
        table.add_row(one.generator, one.figure, f"{one.value:.4g}", limit, mark)
    return table


def gate(profile: str, directory: Path, limits: Path = LIMITS) -> bool:
    """Judge the outcomes in a folder: print the table and write the page. ValueError when there is nothing to judge."""
    from loadtests.page import load_page  # draws, so it is only loaded when it is needed

    allowed = read_limits(limits, profile)
    outcomes = read_outcomes(directory, profile)
    looks = read_looks(directory, profile)
    judged = judge(outcomes, allowed) + [
        Judged("server", f"{name}_per_min", slope.per_min, slope.noise)
        for name, slope in (slopes(looks) if looks else {}).items()
    ]
    shown = console()
    shown.print(figures_table(profile, judged))
    page = directory / PAGE.format(profile=profile)
    page.write_text(load_page(profile_named(profile), outcomes, judged, looks))
    missed = [one for one in judged if not one.passed]
    verdict = "passed" if not missed else f"failed: {', '.join(f'{one.figure} ({one.generator})' for one in missed)}"
    shown.print(f"{profile} {verdict}; curves in {page}")
    return not missed


def main(argv: Sequence[str] | None = None) -> int:
    """Judge what `python -m loadtests.run` left."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.gate", description=main.__doc__)
    parser.add_argument("profile", nargs="?", default="steady", help=f"one of {', '.join(PROFILES)} (steady)")
    parser.add_argument("--limits", type=Path, default=LIMITS, help="file of limits (loadtests/limits.toml)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of the outcomes, and for the page ({OUT})")
    args = parser.parse_args(argv)
    try:
        return 0 if gate(profile_named(args.profile).name, args.out, args.limits) else 1
    except ValueError as error:
        print(f"loadtests.gate: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
