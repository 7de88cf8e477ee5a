"""Which resources of compiled kernels are refused, and the contents of the record."""

import json
from typing import Any

import pytest

from benchmarks.kernel_resources import GOLDEN, problems_of, rows_of
from twotower.kernels.configurations import TARGETS

FINE: dict[str, Any] = {
    "registers": 100,
    "stack_bytes": 0,
    "shared_bytes": 60_000,
    "spills": 0,
    "wide_share": 1.0,
    "narrow_loads": 0,
    "lines": 800,
}


def test_what_is_as_recorded_passes() -> None:
    assert list(problems_of("sm_90", {"top-k/scan": FINE}, {"top-k/scan": FINE})) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"spills": 3}, "spills"),
        ({"stack_bytes": 8}, "8 bytes of stack"),
        ({"shared_bytes": 70_000}, "70000 bytes of shared memory; there are 65536"),
        ({"wide_share": 0.9}, "90% of its hot loop's bytes by 128 bits, 100% before"),
        ({"registers": 111}, "111 registers, 100 before"),
        ({"lines": 881}, "881 lines"),
    ],
)
def test_what_got_worse_is_refused(change: dict[str, Any], complaint: str) -> None:
    assert complaint in " ".join(problems_of("gfx942", {"top-k/scan": FINE | change}, {"top-k/scan": FINE}))


def test_a_tenth_more_is_let_pass() -> None:
    assert list(problems_of("sm_90", {"top-k/scan": FINE | {"registers": 110}}, {"top-k/scan": FINE})) == []


def test_kernels_and_records_without_each_other_are_refused() -> None:
    assert len(list(problems_of("sm_90", {"top-k/scan": FINE}, {"decode/pages": FINE}))) == 2


def test_another_version_of_triton_is_held_to_limits_alone() -> None:
    assert list(problems_of("sm_90", {"top-k/scan": FINE | {"registers": 200}}, None)) == []
    assert list(problems_of("sm_90", {"top-k/scan": FINE | {"spills": 1}}, None)) != []


def test_every_configuration_recorded_fits_its_target() -> None:
    recorded = json.loads(GOLDEN.read_text())
    metrics = {row.metric: row for row in rows_of(recorded, 0)}

    assert set(recorded) == set(TARGETS)
    assert metrics["configurations"].value > 0
    assert all(row.meets_must for row in metrics.values())
