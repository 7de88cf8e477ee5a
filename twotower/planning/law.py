"""A fitted scaling law as a file: what runs of one corpus say about sizes and metrics, with 95 % intervals.

`twotower fit` writes it, and `twotower plan` reads it. It holds results, not runs: nothing is fitted when it is read.
"""

import math
from itertools import pairwise
from pathlib import Path

import msgspec

from twotower.errors import DataError

FORMAT_VERSION = 1


class Interval(msgspec.Struct, frozen=True):
    """An estimate and its 95 % interval. A bound that the runs do not give is infinite, and null in the file."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        low, high = (("-inf", "inf")[i] if end is None else f"{end:.3g}" for i, end in enumerate((self.low, self.high)))
        return f"{self.value:.3g} [{low}, {high}]"


class PowerLaw(msgspec.Struct, frozen=True, kw_only=True):
    """y = at_anchor x (flops / anchor)^exponent."""

    anchor: float  # FLOPs, the geometric mean of the budgets
    at_anchor: Interval
    exponent: Interval  # Student's t over the budgets, so that it also holds what a power law misses
    bootstrap: Interval | None = None  # of the exponent, from drawing runs again: the noise of runs alone

    def at(self, flops: float) -> float:
        """The value at a budget."""
        return float(self.at_anchor.value * (flops / self.anchor) ** self.exponent.value)


class Optimum(msgspec.Struct, frozen=True, kw_only=True):
    """The bottom of one budget's valley."""

    flops: float
    parameters: Interval
    events: Interval
    metric: float  # at the bottom, as it is measured
    num_runs: int


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """The metric of a compute-optimal model, and the 95 % interval for one further run."""

    flops: float
    value: float
    low: float
    high: float


class Surface(msgspec.Struct, frozen=True, kw_only=True):
    """L = E + A N^-alpha + B D^-beta through all runs, where L is the metric, or 1 - metric if higher is better."""

    E: Interval
    A: Interval
    alpha: Interval
    B: Interval
    beta: Interval
    size_exponent: Interval  # beta / (alpha + beta), of N* in C
    relative_noise: float  # standard deviation of a run around the surface, as a share of L
    leave_one_out: dict[str, float]  # budget -> size_exponent without its runs
    held_out_error: float | None  # root mean square relative error at the largest budget of a surface fitted to the others


class MetricLaw(msgspec.Struct, frozen=True, kw_only=True):
    """What the runs say about one metric."""

    higher_is_better: bool
    parameters: PowerLaw | None  # N*(C), None with fewer than three valleys that have a bottom
    events: PowerLaw | None  # D*(C)
    optima: list[Optimum]
    curve: list[Expected]  # at increasing budgets, from a decade below the runs to a decade above
    surface: Surface | None = None
    missing: list[str] = []  # sentences: what could not be fitted, and what to run next


class Law(msgspec.Struct, frozen=True, kw_only=True):
    """A law per metric, fitted to runs of one corpus."""

    format_version: int
    corpus: str
    made: str  # ISO 8601, UTC
    smallest_flops: float
    largest_flops: float
    run_keys: list[str]  # the runs that were fitted
    left_out: dict[str, int]  # reason -> number of runs
    metrics: dict[str, MetricLaw]

    def expected(self, metric: str, flops: float) -> Expected | None:
        """The metric of a compute-optimal model at a budget; None where this law has no estimate, see `why_not`."""
        if self.why_not(metric, flops):
            return None
        curve = self.metrics[metric].curve
        for before, after in pairwise(curve):
            if before.flops <= flops <= after.flops:
                return _between(before, after, flops)
        return None

    def why_not(self, metric: str, flops: float) -> str:
        """A sentence why there is no estimate; empty if there is one."""
        if metric not in self.metrics:
            return f"no estimate: the law knows {', '.join(sorted(self.metrics))}, and not {metric}"
        if not (curve := self.metrics[metric].curve):
            return f"no estimate: {'; '.join(self.metrics[metric].missing) or f'{metric} could not be fitted'}"
        if not curve[0].flops <= flops <= curve[-1].flops:
            return (
                f"no estimate: the law was fitted to {self.smallest_flops:.3g} to {self.largest_flops:.3g} FLOPs, and says "
                f"nothing further than a decade from these"
            )
        return ""

    def is_beyond_the_runs(self, flops: float) -> bool:
        """Whether an estimate at this budget extrapolates."""
        return not self.smallest_flops <= flops <= self.largest_flops


def write_law(law: Law, path: Path) -> None:
    """Write a law as JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(law)) + b"\n")


def read_law(path: Path) -> Law:
    """Read a law. DataError for a file that is none."""
    try:
        law = msgspec.json.decode(path.read_bytes(), type=Law)
    except FileNotFoundError as error:
        raise DataError(f"there is no law {path}: `twotower fit` writes one") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} is no fitted law ({error}): give the file that `twotower fit` wrote") from error
    if law.format_version != FORMAT_VERSION:
        raise DataError(
            f"{path} is a law of format {law.format_version}, and this version reads {FORMAT_VERSION}: fit the ledger again"
        )
    return law


def _between(before: Expected, after: Expected, flops: float) -> Expected:
    """Linear in the logarithm of the budget."""
    part = math.log(flops / before.flops) / math.log(after.flops / before.flops)

    def mix(low: float, high: float) -> float:
        return low + part * (high - low)

    return Expected(
        flops=flops,
        value=mix(before.value, after.value),
        low=mix(before.low, after.low),
        high=mix(before.high, after.high),
    )
