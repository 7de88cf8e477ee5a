"""Small data sets as pandas, polars, duckdb and pyarrow write them, each taken through infer, validate, train and embed.

Every set holds the same 480 events of 40 users on 30 items, in another type, unit, layout or naming. A set is right when all of
them arrive in the release, when a line says what was left out, or when one line without a traceback says why it is refused.
"""

import argparse
import io
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Row, write_report
from benchmarks.training_rivals.environment import peer_python
from twotower import cli

MAKER = Path(__file__).with_name("export_tools") / "write_sets.py"
REQUIREMENTS = MAKER.with_name("requirements.txt")
VENV, SETS = Path("build/exports/venv"), Path("build/exports/sets")
NUM_EVENTS, NUM_USERS, NUM_ITEMS = 480, 40, 30
TRAIN_MINUTES = "0.0005"  # one step of each stage


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one set."""

    name: str
    verdict: str  # "whole", "told", "refused" or "WRONG"
    stage: str  # the last one that ran
    line: str


def drive(where: Path, directory: Path) -> Outcome:
    """Take the set in `where` through all stages, with results in `directory`."""
    events, items = (next(p for p in (where / f"{name}.parquet", where / name) if p.exists()) for name in ("events", "items"))
    files = ["--events", str(events), "--items", str(items)]
    schema, bundle = ["--schema", str(directory / "schema.toml")], str(directory / "bundle")
    stages = {
        "infer": ["schema", "infer", *files, "--out", str(directory / "schema.toml")],
        "validate": ["validate", *files, *schema],
        "train": ["train", "demo", *files, *schema, "--out", bundle, "--minutes", TRAIN_MINUTES],
        "embed": ["embed", "--bundle", bundle, *files, "--store", str(directory / "store"), "--force", "--reason", "a tiny log"],
    }
    said = ""
    for stage, argv in stages.items():
        status, output = call(argv)
        said += output
        if "Traceback" in output:
            return Outcome(where.name, "WRONG", stage, output.strip().splitlines()[-1])
        if status:
            lines = [line for line in output.splitlines() if re.search("error", line)] or output.strip().splitlines()[-1:]
            late = stage in ("train", "embed")  # validate should have said it
            return Outcome(where.name, "WRONG" if late else "refused", stage, " ".join(lines))
    whole = f"{NUM_EVENTS:,} events of {NUM_USERS} users, {NUM_EVENTS} used" in said and f": {NUM_ITEMS} items" in said
    told = [line.strip(" │") for line in said.splitlines() if re.search("left out|rejected|read as", line)]
    line = " / ".join(dict.fromkeys(told))
    return Outcome(where.name, "whole" if whole else "told" if line else "WRONG", "embed", line)


def call(argv: Sequence[str]) -> tuple[int, str]:
    """Exit status and output of one command."""
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        try:
            status = cli.main(list(argv))
        except SystemExit as end:
            status = int(end.code or 0)
        except Exception:
            traceback.print_exc()
            status = 1
    return status, output.getvalue()


def outcomes(sets: Path, names: Sequence[str]) -> Iterator[Outcome]:
    """The outcome of each set, or of those that are named."""
    for where in sorted(path for path in sets.iterdir() if path.is_dir() and (not names or path.name in names)):
        directory = Path(tempfile.mkdtemp(prefix="exports-"))
        try:
            yield drive(where, directory)
        finally:
            shutil.rmtree(directory)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the sets, take each through all stages, and print what became of it. Exit status 1 when one is not right."""
    parser = argparse.ArgumentParser(prog="exports", description=__doc__)
    parser.add_argument("names", nargs="*", help="only these sets")
    parser.add_argument("--sets", type=Path, help=f"directory of sets made before (default: make them in {SETS})")
    args = parser.parse_args(argv)
    if args.sets is None:
        subprocess.run([peer_python(VENV, requirements=REQUIREMENTS), MAKER, SETS], check=True)
    found = []
    for outcome in outcomes(args.sets or SETS, args.names):
        found.append(outcome)
        print(f"{outcome.name:<36} {outcome.verdict:<8} {outcome.stage:<9} {outcome.line}", flush=True)
    counts = {verdict: sum(o.verdict == verdict for o in found) for verdict in ("whole", "told", "refused", "WRONG")}
    must = {"WRONG": 0.0}
    write_report(
        "exports",
        [
            Row(metric=f"exports_{verdict.lower()}", value=float(count), unit="sets", better="lower", must=must.get(verdict))
            for verdict, count in counts.items()
        ],
    )
    return 1 if counts["WRONG"] else 0


if __name__ == "__main__":
    sys.exit(main())
