"""`--engine ray` measures what one process measures; Ray runs in a process of its own, as for a user."""

import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

pytest.importorskip("ray", reason="install the extra `ray`")

from tests.training.sweeps.test_sweep import arguments
from training.sweeps.ledger import read_runs


def test_a_cluster_measures_what_this_machine_measures(tiny_shop: Path, tmp_path: Path) -> None:
    for engine in ("local", "ray"):
        command = arguments(tiny_shop, tmp_path / engine, "--engine", engine, "--seeds", "0,1")
        subprocess.run(command, check=True, timeout=300, capture_output=True)
    here, there = (
        sorted((replace(run, seconds=0.0) for run in read_runs(tmp_path / engine)), key=lambda run: run.key)
        for engine in ("local", "ray")
    )
    assert here == there
    assert [run.outcome for run in here] == ["done", "done"]
