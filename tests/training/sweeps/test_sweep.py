"""A sweep works through its queue, survives being killed, and runs nothing twice."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from training.sweeps.ledger import read_runs
from twotower.errors import DataError

GRID = ("sweep", "isoflop", "--corpus", "shop", "--shapes", "16x1", "--flops", "2e10", "--share", "0.3", "--window", "32")


def arguments(shop: Path, ledger: Path, *more: str) -> list[str]:
    files = [part for name in ("events", "items") for part in (f"--{name}", str(shop / f"{name}.parquet"))]
    return [
        sys.executable,
        "-m",
        "twotower.cli",
        *GRID,
        *files,
        "--schema",
        str(shop / "schema.toml"),
        "--ledger",
        str(ledger),
        *more,
    ]


def finished(ledger: Path) -> int:
    try:
        return len(read_runs(ledger))
    except DataError:  # it is not there yet
        return 0


def children(process: int) -> list[int]:
    """The processes that a process started."""
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_sweep_that_is_killed_goes_on_with_what_has_not_ended(tiny_shop: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "runs.sqlite"
    command = arguments(tiny_shop, ledger, "--seeds", "0,1,2", "--workers", "1")
    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not finished(ledger) and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = children(killed.pid)
    killed.kill()
    killed.wait()
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers
    assert not any(map(is_running, workers)), "no process of a sweep that was killed is left"
    before = read_runs(ledger)
    assert 0 < len(before) < 3

    again = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)

    assert f"3 runs are planned: 0 new, {len(before)} have ended, {3 - len(before)} to do" in again.stderr
    runs = read_runs(ledger)
    assert [run.outcome for run in runs] == ["done"] * 3
    assert [run for run in runs if run.key in {one.key for one in before}] == before, "what had ended was not run again"
    assert "runs can be fitted; next: twotower fit --ledger" in again.stderr
    assert "min left" in again.stderr


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--shapes", "7x1"), "'7x1' is no shape"),
        (("--flops", "0"), "--flops 0: 0 is not positive"),
        (("--flops", "lots"), "--flops lots"),
        (("--workers", "0"), "--workers is 0: give at least 1"),
        (("--flops", "1"), "no shape reads a sensible number of events at these budgets"),
    ],
)
def test_a_wrong_option_is_one_sentence(tiny_shop: Path, tmp_path: Path, wrong: tuple[str, str], message: str) -> None:
    command = arguments(tiny_shop, tmp_path / "runs.sqlite", *wrong)
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr
