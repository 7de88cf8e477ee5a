"""Times come from measured rates; a GPU has none."""

import math

import pytest

from twotower.planning.hardware import CPU_RATE, times


def test_a_gpu_is_not_timed() -> None:
    cpu, gpu = times(CPU_RATE * 3600, None)
    assert cpu.seconds == 3600
    assert (gpu.flops_per_second, gpu.seconds) == (None, None)
    assert gpu.source.startswith("not timed")


def test_a_rate_that_is_given_is_used_and_named_as_given() -> None:
    _, own = times(6e15, 3e14)
    assert (own.seconds, own.source) == (20, "rate as given")


@pytest.mark.parametrize("rate", [0.0, -1.0, math.inf, math.nan])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="such as 3e14"):
        times(1e15, rate)
