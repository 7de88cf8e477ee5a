"""How fast hardware trains: what was measured here, and what was not.

A rate is the FLOPs of `twotower.planning.flops`, every term, that a run did, by its seconds. It counts drawing batches, steps
and evaluations alike, so it says how long a run takes, not how fast a product of matrices is.
"""

import math

import msgspec

CPU = "2 cores (AMD EPYC, AVX2), fp32"
# Three minutes of `twotower demo` on 2026-11-30: 394 steps of 12.9e9 FLOPs and 262 of 18.4e9 in 180 s, at 5,850 events a second.
CPU_RATE = 5.5e10


class HardwareTime(msgspec.Struct, frozen=True, kw_only=True):
    """How long the plan takes on one machine."""

    hardware: str
    flops_per_second: float | None  # that training reaches, every term counted; null where it was not measured
    seconds: float | None
    source: str  # where the rate comes from


def times(flops: float, rate: float | None) -> list[HardwareTime]:
    """On the machine that was measured, on a GPU, which was not, and at the rate that the caller gives."""
    if rate is not None and not 0 < rate < math.inf:
        raise ValueError(f"a rate of {rate} is none: give the FLOPs that your hardware does in a second, such as 3e14")
    found = [
        HardwareTime(
            hardware=CPU, flops_per_second=CPU_RATE, seconds=flops / CPU_RATE, source="measured in `twotower demo`, 2026-11-30"
        ),
    ]
    if rate is None:
        return [*found, HardwareTime(hardware="a GPU", flops_per_second=None, seconds=None, source="not timed: give a rate")]
    return [*found, HardwareTime(hardware="your hardware", flops_per_second=rate, seconds=flops / rate, source="rate as given")]
