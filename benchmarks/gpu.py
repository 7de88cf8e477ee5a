"""Measure the path on a GPU, and every op beside its peers, in less than eight minutes; the first three print what matters most.

Sections, in this order: `engine` (batches of the service), `encode` (the nightly job), `training` (a step of each stage), `ops`
(peak rates, and the correctness and time of every op), `faiss` (the kinds of index that FAISS searches on a GPU), `sanitizers`.
`--only` takes one of them.

`--dry-run` runs on the CPU, with small shapes and the torch implementations of our ops: it counts launches and copies of a batch,
says what FAISS would be asked for, and times nothing. No time is printed that was not measured. `--quick` leaves out the largest
shapes. `--check` only checks the smallest shape of each op, for `compute-sanitizer`, which is slow. Needs torch, Triton and
numpy, and nothing else.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from benchmarks.device_path.bare import stand_in_for_missing

MISSING = stand_in_for_missing()

import torch  # noqa: E402 - what follows imports packages that may be missing

from benchmarks.device_path.figures import Figure  # noqa: E402
from benchmarks.device_path.path import SECTIONS  # noqa: E402
from benchmarks.device_path.sizes import FULL, SMALL, Sizes  # noqa: E402
from benchmarks.kernel_races.ops import Scale, races  # noqa: E402
from benchmarks.kernel_races.race import Ceilings, Result, floor_us, measured_ceilings, run_race  # noqa: E402
from benchmarks.report import Row, write_report  # noqa: E402
from twotower.device import ON_CPU, Device, why_no_gpu  # noqa: E402
from twotower.terminal import TextTable, console  # noqa: E402

TABLE_WIDTH = 200  # for a log that is read later, not for a terminal
NOT_MEASURED = "not measured"
SANITIZERS = ("memcheck", "racecheck")
MOST_S = 8 * 60.0  # sections that would begin later are left out


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, report. Exit status 1 when an answer of our ops is wrong."""
    parser = argparse.ArgumentParser(prog="gpu", description=__doc__)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--dry-run", action="store_const", dest="scale", const="dry", default="full")
    group.add_argument("--quick", action="store_const", dest="scale", const="quick")
    group.add_argument("--check", action="store_const", dest="scale", const="check")
    parser.add_argument("--only", choices=(*SECTIONS, "ops", "sanitizers"), help="one section")
    args = parser.parse_args(argv)
    scale: Scale = args.scale
    timing, problem = scale in ("full", "quick"), why_no_gpu()
    if problem and timing:
        print(f"There is no GPU here, so nothing can be timed: {problem}. --dry-run checks all but the kernels.", file=sys.stderr)
        return 1
    started, wanted = time.monotonic(), [args.only] if args.only else [*SECTIONS, "ops", "sanitizers"]
    if MISSING:
        print(f"not installed, and not needed: {', '.join(MISSING)}")
    first = [name for name in wanted if name in SECTIONS and name != "faiss"]
    sizes = sizes_of(scale)
    figures = [] if scale == "check" else list(path_figures(first, sizes, timing))
    results, ceilings = [], None
    if "ops" in wanted and time.monotonic() - started < MOST_S:
        on_gpu = not problem and scale != "dry"
        ceilings = measured_ceilings() if timing else None
        print(told(ceilings))
        device = torch.device("cuda" if on_gpu else "cpu")
        results = [result for race in races(scale, device) for result in run_race(race, timing=timing)]
        show(results, ceilings)
    left_s = MOST_S - (time.monotonic() - started)
    if "faiss" in wanted and scale != "check" and left_s > 0:
        if timing:  # because FAISS ends the process at some errors of CUDA
            write_report("gpu", [*rows_of_figures(figures), *rows_of(results, ceilings)])
        figures += path_figures(["faiss"], replace(sizes, index_s=left_s), timing)
    if timing and "sanitizers" in wanted and time.monotonic() - started < MOST_S:
        for tool in SANITIZERS:
            print(f"{tool}: {sanitized(tool)}")
    if timing:
        write_report("gpu", [*rows_of_figures(figures), *rows_of(results, ceilings)])
    wrong = [result for result in results if result.contender == "ours" and result.is_wrong]
    return 1 if wrong else 0


def sizes_of(scale: Scale) -> Sizes:
    """The sizes of the path."""
    if scale == "dry":
        return SMALL
    return replace(FULL, num_indexed=FULL.num_indexed[:1]) if scale == "quick" else FULL


def path_figures(names: Sequence[str], sizes: Sizes, timing: bool) -> Iterator[Figure]:
    """The figures of some sections, each printed as soon as it is there. A section that fails does not end the run."""
    device = Device(torch.device("cuda"), torch.bfloat16) if timing else ON_CPU
    for name in names:
        try:
            for figure in SECTIONS[name](sizes, device, timing):
                value = NOT_MEASURED if figure.value is None else f"{figure.value:,.4g} {figure.unit}"
                print(f"{figure.name}: {value}{f' ({figure.note})' if figure.note else ''}", flush=True)
                yield figure
        except (RuntimeError, ImportError, AttributeError, TypeError) as error:
            if not timing:
                raise
            print(f"{name}: failed: {str(error).splitlines()[0]}", flush=True)


def rows_of_figures(figures: Sequence[Figure]) -> list[Row]:
    """Rows of the figures that were measured."""
    return [
        Row(metric=figure.name, value=figure.value, unit=figure.unit, better=figure.better)
        for figure in figures
        if figure.value is not None
    ]


def show(results: Sequence[Result], ceilings: Ceilings | None) -> None:
    """Print the races as a table, or as lines where the package that draws tables is missing."""
    if "rich" not in MISSING:
        console(width=TABLE_WIDTH).print(table(results, ceilings))
        return
    for result in results:
        error = "" if result.error is None else f"error {result.error:.1e}"
        of_race = (result.race.op, result.race.shape, result.contender)
        print(" | ".join([*of_race, *cells(result, ceilings), error, lead(result, results), result.note]))


def told(ceilings: Ceilings | None) -> str:
    """The ceilings as one line."""
    if ceilings is None:
        return f"ceilings: {NOT_MEASURED}"
    copies = f"copy {ceilings.copy_bytes_s / 1e9:,.0f} GB/s, cached {ceilings.cached_copy_bytes_s / 1e9:,.0f} GB/s"
    return f"{copies}, bf16 {ceilings.tensor_flop_s / 1e12:,.0f} TFLOP/s, launch {ceilings.launch_us:.1f} us"


def table(results: Sequence[Result], ceilings: Ceilings | None) -> TextTable:
    """A line for each contender. Cells without a measurement say so."""
    made = TextTable("op", "shape", "contender", title="GPU" if ceilings else f"dry run: times are {NOT_MEASURED}")
    columns = ("us", "p20", "p80", "warm", "graph", "GB/s", "TFLOP/s", "of floor", "MiB", "first s", "error", "x best peer", "")
    for column in columns:
        made.add_column(column, justify="right")
    for result in results:
        error = "" if result.error is None else f"{result.error:.1e}"
        of_race = (result.race.op, result.race.shape, result.contender)
        made.add_row(*of_race, *cells(result, ceilings), error, lead(result, results), result.note)
    return made


def cells(result: Result, ceilings: Ceilings | None) -> list[str]:
    """The cells of a contender's timing."""
    timing, race = result.timing, result.race
    if timing is None or ceilings is None:
        return [NOT_MEASURED] + [""] * 9
    graph = "" if timing.graph_us is None else f"{timing.graph_us:.1f}"
    times = [f"{us:.1f}" for us in (timing.median_us, timing.p20_us, timing.p80_us, timing.warm_us)]
    rates = [f"{race.num_bytes / timing.median_us / 1e3:,.0f}", f"{race.num_flop / timing.median_us / 1e6:,.0f}"]
    share = f"{floor_us(race, ceilings) / timing.median_us:.0%}"
    return [*times, graph, *rates, share, f"{timing.peak_mib:,.0f}", f"{timing.first_s:.1f}"]


def lead(result: Result, results: Sequence[Result]) -> str:
    """The best peer's time over ours, as a cell."""
    ratio = lead_ratio(result, results)
    return "" if ratio is None else f"{ratio:.2f}"


def lead_ratio(result: Result, results: Sequence[Result]) -> float | None:
    """The best peer's time over ours; None if either was not timed."""
    peers = [
        other.timing.median_us
        for other in results
        if other.race is result.race and other.contender != "ours" and other.timing is not None
    ]
    if result.contender != "ours" or result.timing is None or not peers:
        return None
    return min(peers) / result.timing.median_us


def rows_of(results: Sequence[Result], ceilings: Ceilings | None) -> list[Row]:
    """Rows of our ops that were timed."""
    rows = []
    for result in results:
        if result.contender != "ours" or result.timing is None or ceilings is None:
            continue
        name, median_us = f"{result.race.op} {result.race.shape}", result.timing.median_us
        rows.append(Row(metric=name, value=median_us, unit="us", better="lower", goal=result.race.goal_us))
        share = floor_us(result.race, ceilings) / median_us
        rows.append(Row(metric=f"{name}, of floor", value=share, unit="share", better="higher"))
        if (ratio := lead_ratio(result, results)) is not None:
            rows.append(Row(metric=f"{name}, lead", value=ratio, unit="x best peer", better="higher"))
    return rows


def sanitized(tool: str) -> str:
    """Run NVIDIA's compute-sanitizer over the smallest shapes, in a separate process."""
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        return f"{NOT_MEASURED}: compute-sanitizer is not installed"
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "benchmarks.gpu", "--check"]
    return "clean" if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0 else "FOUND ERRORS"


if __name__ == "__main__":
    sys.exit(main())
