"""Compiles every kernel for every target, without a GPU, and compares its resources with the record.

These are refused: spilled registers, a stack, more shared memory than the target has (the compiler does not check that), fewer
128-bit loads in a hot loop than recorded, registers, shared memory or code more than a tenth above the record, and kernels
without a record. `--record` writes a new record; read the changes before you commit it. `--triton PYTHON` compiles with the
Triton of another environment. Growth is checked only with the version of Triton that the record was made with.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.report import Row, write_report
from twotower.kernels.configurations import TARGETS, Target
from twotower.terminal import TextTable, console

GOLDEN = Path(__file__).parent / "golden/kernel_resources.json"
SHARED_LIMIT: Mapping[Target, int] = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}
TABLE_WIDTH = 170  # for a log that is read later, not for a terminal
GROWTH = 1.1
TRITON = "3.9.0"  # with which the record was made
GROWING = ("registers", "shared_bytes", "lines")
FUSION = {"TRITON_DEFAULT_FP_FUSION": "1"}  # set, because Triton is about to change the default
CACHE = Path("build/triton")  # so that unchanged kernels are not compiled again

Found = Mapping[str, Mapping[str, Any]]  # resources for one target, by case and kernel


def main(argv: Sequence[str] | None = None) -> int:
    """Compile, print, compare. Exit status 1 when something is refused."""
    parser = argparse.ArgumentParser(prog="kernel_resources", description=__doc__)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--record", action="store_true", help="write what is found as the new record")
    choice.add_argument("--triton", default=sys.executable, metavar="PYTHON", help="a Python with another version of Triton")
    args = parser.parse_args(argv)
    found = {target: compile_for(target, args.triton) for target in TARGETS}
    console(width=TABLE_WIDTH).print(table(found))
    if args.record:
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    is_recorded = args.triton == sys.executable and version("triton") == TRITON
    recorded = json.loads(GOLDEN.read_text()) if is_recorded else None
    problems = [problem for target in TARGETS for problem in problems_of(target, found[target], recorded and recorded[target])]
    for problem in problems:
        print(problem, file=sys.stderr)
    if recorded is not None:
        write_report("kernel_resources", rows_of(found, len(problems)))
    return 1 if problems else 0


def compile_for(target: Target, python: str) -> Found:
    """Compile for a target in a separate process, because a process of Triton has one target."""
    environment = os.environ | {"TRITON_CACHE_DIR": str((CACHE / target).absolute()), "TRITON_INTERPRET": "0"} | FUSION
    command = [python, "-m", "benchmarks.kernel_static.compile", target]
    found: Found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment).stdout)
    return found


def problems_of(target: Target, found: Found, recorded: Found | None) -> Iterator[str]:
    """Everything that is refused, as sentences. Without a record, growth and lost loads are not checked."""
    for key, now in found.items():
        name = f"{key} on {target}"
        if now["spills"] or now["stack_bytes"]:
            yield f"{name} spills: {now['spills']} instructions or registers, {now['stack_bytes']} bytes of stack"
        if now["shared_bytes"] > SHARED_LIMIT[target]:
            yield f"{name} takes {now['shared_bytes']} bytes of shared memory; there are {SHARED_LIMIT[target]}"
        if recorded is None:
            continue
        if key not in recorded:
            yield f"{name} has no record. Look at what it takes, then run with --record."
            continue
        before = recorded[key]
        if now["wide_share"] < before["wide_share"]:
            yield f"{name} loads {now['wide_share']:.0%} of its hot loop's bytes by 128 bits, {before['wide_share']:.0%} before"
        for quantity in GROWING:
            if now[quantity] > GROWTH * before[quantity]:
                yield f"{name} takes {now[quantity]} {quantity}, {before[quantity]} before"
    if recorded is not None:
        yield from (
            f"{key} on {target} is recorded and was not compiled. Run with --record." for key in recorded if key not in found
        )


def rows_of(found: Mapping[Target, Found], num_problems: int) -> list[Row]:
    """The rows of the report."""
    programs = [(target, program) for target, of_target in found.items() for program in of_target.values()]
    spilling = sum(bool(program["spills"] or program["stack_bytes"]) for _, program in programs)
    over = sum(program["shared_bytes"] > SHARED_LIMIT[target] for target, program in programs)
    return [
        Row(metric="configurations", value=len(programs), unit="compiled", better="higher"),
        Row(metric="spills", value=spilling, unit="configurations", better="lower", must=0),
        Row(metric="over_limit", value=over, unit="configurations", better="lower", must=0),
        Row(metric="problems", value=num_problems, unit="see above", better="lower", must=0),
    ]


def table(found: Mapping[Target, Found]) -> TextTable:
    """A line for each kernel and target."""
    result = TextTable("kernel", "target", title="resources")
    columns = ("registers", "shared_bytes", "spills", "stack_bytes", "matrix", "wide_share", "narrow_loads", "lines", "num_warps")
    for column in columns:
        result.add_column(column.replace("_", " "), justify="right")
    for target, programs in found.items():
        for key, program in programs.items():
            result.add_row(key, target, *(str(program[column]) for column in columns))
    return result


if __name__ == "__main__":
    sys.exit(main())
