"""The rules by which fits leave a run out."""

import pytest
from msgspec.structs import replace

from training.sweeps.exclusions import excluded
from training.sweeps.grids import base, shape_of
from training.sweeps.ledger import Run
from training.sweeps.measure import ended

SOUND = replace(
    ended(replace(base("shop-1", shape_of("16x1")), flops=1e9), "done", ""),
    flops_exact=1.01e9,
    events=1_600,
    distinct_events=100,
    metrics={"steps": 60.0},
)


@pytest.mark.parametrize(
    ("run", "rule"),
    [
        (SOUND, ""),
        (replace(SOUND, outcome="diverged"), "diverged"),
        (replace(SOUND, outcome="failed"), "failed"),
        (replace(SOUND, metrics={"steps": 59.0}), "fewer than 60 steps"),
        (replace(SOUND, events=1_601), "more than 16 passes over the events"),
        (replace(SOUND, flops_exact=1.06e9), "more than 5% off its budget"),
    ],
)
def test_a_run_is_left_out_by_the_first_rule_that_it_breaks(run: Run, rule: str) -> None:
    assert excluded(run) == rule
