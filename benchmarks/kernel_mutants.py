"""Mutation testing of the kernels: plants one error at a time and runs the kernel's tests.

A mutant is killed when a test fails, or when the tests take three times as long as without it. Survivors are listed with the
reason in `golden/kernel_survivors.json`, which is mostly that the error has no observable effect. A survivor without a reason is
refused.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import hypothesis
import pytest

import tests.conftest  # noqa: F401 - kernels are interpreted from here on, and packages of others imported once for all
from benchmarks.kernel_static.mutants import Mutant, mutants
from benchmarks.report import Row, write_report

OURS = {"twotower", "service", "training", "embedder_cache", "tests"}  # imported again, so that all of them use the mutant
KERNELS = ("twotower/kernels", "training/kernels", "service/kernels")
EXPLAINED = Path(__file__).parent / "golden/kernel_survivors.json"
PER_FILE = 32  # mutants drawn for each file; --all runs every one
PATIENCE, LEAST_S = 3.0, 20.0

_processes = multiprocessing.get_context("fork")  # Torch and Triton are imported once


def main(argv: Sequence[str] | None = None) -> int:
    """Plant, run, report. Exit status 1 when the score is too low or a survivor is not explained."""
    parser = argparse.ArgumentParser(prog="kernel_mutants", description=__doc__)
    parser.add_argument("--all", action="store_true", help=f"every mutant, not {PER_FILE} of each file")
    parser.add_argument("files", nargs="*", type=Path, help="kernels to try; every file with one by default")
    args = parser.parse_args(argv)
    explained: dict[str, str] = json.loads(EXPLAINED.read_text())
    num_mutants, survivors = 0, list[str]()
    for path in args.files or sorted(path for room in KERNELS for path in Path(room).glob("*.py")):
        chosen = mutants(path.read_text())
        if not args.all:
            chosen = random.Random(0).sample(chosen, min(PER_FILE, len(chosen)))
        num_mutants += len(chosen)
        survivors += survivors_of(path, chosen)
    unexplained = [survivor for survivor in survivors if survivor not in explained]
    for survivor in survivors:
        print(f"survived: {survivor}\n  {explained.get(survivor, 'NOT EXPLAINED')}")
    rows = [
        Row(metric="mutants", value=num_mutants, unit="planted", better="higher"),
        Row(metric="mutation_score", value=1 - len(survivors) / max(num_mutants, 1), unit="killed", better="higher", must=0.9),
        Row(metric="unexplained_survivors", value=len(unexplained), unit="mutants", better="lower", must=0),
    ]
    write_report("kernel_mutants", rows)
    return 0 if all(row.meets_must for row in rows) else 1


def survivors_of(path: Path, planted: Sequence[Mutant]) -> list[str]:
    """Names of the mutants of a file that its tests do not find."""
    if not planted:
        return []
    tests = own_tests(path)
    started = time.monotonic()
    if not passes(path, path.read_text(), tests, 600.0, show=True):
        raise SystemExit(f"{tests} fails without a mutant: fix that first.")
    patience_s = max(LEAST_S, PATIENCE * (time.monotonic() - started))
    survived = []
    for number, mutant in enumerate(planted, 1):
        alive = passes(path, mutant.source, tests, patience_s)
        print(f"{path} {number}/{len(planted)} {'survived' if alive else 'killed'}: {mutant.name}", flush=True)
        survived += [f"{path} {mutant.name}"] if alive else []
    return survived


def own_tests(path: Path) -> Path:
    """The tests of the file; those of its directory if it has none, because then several ops share the kernel."""
    own = Path("tests") / path.with_name(f"test_{path.name}")
    return own if own.exists() else own.parent


def passes(path: Path, source: str, tests: Path, patience_s: float, *, show: bool = False) -> bool:
    """Whether the tests pass in time when this source takes the place of the file."""
    with tempfile.TemporaryDirectory() as directory:
        stand_in = Path(directory) / path.name
        stand_in.write_text(source)
        process = _processes.Process(target=_run, args=(".".join(path.with_suffix("").parts), stand_in, tests))
        process.start()
        process.join(patience_s)
        if process.exitcode is None:
            process.kill()
            process.join()
        if show and process.exitcode:
            print(stand_in.with_suffix(".log").read_text())
        return process.exitcode == 0


def _run(module_name: str, source: Path, tests: Path) -> None:
    """In a separate process: import the source under the module's name and run the tests without output."""
    log = source.with_suffix(".log").open("w")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    # No shrinking, because the first failure is enough.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutants", phases=phases, database=None, derandomize=True)
    hypothesis.settings.load_profile("mutants")
    for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
        del sys.modules[name]
    spec = importlib.util.spec_from_file_location(module_name, source)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    imported = "ignore::pytest.PytestAssertRewriteWarning"  # hypothesis is imported before pytest can rewrite its asserts
    sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-W", imported, str(tests)]))


if __name__ == "__main__":
    sys.exit(main())
