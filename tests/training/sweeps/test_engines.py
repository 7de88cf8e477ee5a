"""Runs are computed in other processes. One that dies takes no other run with it."""

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from training.sweeps.corpus import Files
from training.sweeps.engines import compute
from training.sweeps.grids import base, shape_of
from training.sweeps.ledger import Run, Settings
from training.sweeps.measure import ended
from twotower.errors import EnvironmentProblem

NOWHERE = Files(Path("events"), Path("items"), Path("schema"))
QUEUE = [replace(base("shop-1", shape_of("16x1")), flops=1e9, seed=seed) for seed in (1, 0)]


def dies(settings: Settings, files: Files) -> Run:
    """A run that with seed 1 ends its process, as the system does for want of memory."""
    if settings.seed == 1:
        os._exit(1)
    return ended(settings, "done", "")


def test_a_death_is_not_held_against_the_run_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.sweeps.engines.computed", dies)
    runs = {run.seed: run for run in compute("local", QUEUE, NOWHERE, num_workers=2)}
    assert {seed: run.outcome for seed, run in runs.items()} == {0: "done", 1: "failed"}
    assert runs[1].reason == "its process died twice, perhaps for want of memory"


def test_without_ray_the_option_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.sweeps.engines.find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'twotower\[ray\]'"):
        list(compute("ray", QUEUE, NOWHERE, num_workers=1))
