"""The compute-optimal model size and amount of data for a budget of FLOPs, and for a given model the data it needs.

"Scaling Laws for Behavioral Foundation Models over User Event Sequences" (Brüel Gabrielsson 2026, arXiv 2606.05257) publishes
the events per parameter at five budgets, 1e15 to 1e19 FLOPs. With C = 6 N D they give N* and D*, whose least-squares exponents
are those of the published law, N* ~ C^0.617 and D* ~ C^0.383. Points and law differ, because the points lie on a curve: the
law gives 445, 260, 152, 88 and 52 events per parameter where the points say 344, 265, 222, 110 and 36 (up to 1.46x; through
the first point instead it gives 344, 201, 117, 68 and 40, up to 1.9x). Between the points we interpolate them in logarithms;
beyond them we follow the law.

C: FLOPs, N: parameters, D: events
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

EVENTS_PER_PARAMETER = {1e15: 344.0, 1e16: 265.0, 1e17: 222.0, 1e18: 110.0, 1e19: 36.0}
PARAMETER_EXPONENT, EVENT_EXPONENT = 0.617, 0.383
STUDENT_95 = {3: 3.182}  # two-sided 95 % quantile of Student's t by degrees of freedom
FLOPS_PER_PARAMETER_AND_EVENT = 6  # forward and backward
NEGATIVES_AT_1E15, MAX_NEGATIVES = 200_000, 1_000_000  # in stage 2; the maximum is reached at 1e18


class Allocation(NamedTuple):
    """The compute-optimal sizes for a budget: 6 x parameters x events = flops."""

    flops: float
    parameters: float  # of both towers
    events: float  # read in training, in all stages together

    @property
    def events_per_parameter(self) -> float:
        """D/N. Text models take about 20."""
        return self.events / self.parameters


def compute_optimal(flops: float) -> Allocation:
    """N* and D* for a budget: interpolated between the published points; beyond them by the law, from the nearest point."""
    if not 0 < flops < math.inf:
        raise ValueError(f"flops is {flops}: give a positive number, such as 1e15")
    points = published()
    parameters = _log_log(flops, [p.flops for p in points], [p.parameters for p in points], PARAMETER_EXPONENT)
    return Allocation(flops, parameters, flops / (FLOPS_PER_PARAMETER_AND_EVENT * parameters))


def fitted_law(flops: float) -> Allocation:
    """N* and D* by the published law alone: a line of slope 0.617 through all five points, in logarithms."""
    points = published()
    centre = math.exp(sum(math.log(p.parameters) for p in points) / len(points))
    middle = math.exp(sum(math.log(p.flops) for p in points) / len(points))
    parameters = centre * (flops / middle) ** PARAMETER_EXPONENT
    return Allocation(flops, parameters, flops / (FLOPS_PER_PARAMETER_AND_EVENT * parameters))


def published() -> list[Allocation]:
    """The five published points."""
    return [
        Allocation(flops, *(math.sqrt(flops * x / FLOPS_PER_PARAMETER_AND_EVENT) for x in (1 / ratio, ratio)))
        for flops, ratio in EVENTS_PER_PARAMETER.items()
    ]


def optimal_events(parameters: float) -> float:
    """D* of the budget for which a model of this size is compute-optimal."""
    points = published()
    return _log_log(parameters, [p.parameters for p in points], [p.events for p in points], EVENT_EXPONENT / PARAMETER_EXPONENT)


def flops_for_events(events: float) -> float:
    """The budget whose compute-optimal number of events this is."""
    points = published()
    return _log_log(events, [p.events for p in points], [p.flops for p in points], 1 / EVENT_EXPONENT)


def flops_for_parameters(parameters: float) -> float:
    """The budget whose compute-optimal model has so many parameters."""
    points = published()
    return _log_log(parameters, [p.parameters for p in points], [p.flops for p in points], 1 / PARAMETER_EXPONENT)


def num_negatives(flops: float) -> int:
    """Candidates per query after freezing: 200,000 at 1e15 FLOPs, growing as a power of the budget to a million at 1e18."""
    decades = min(max(math.log10(flops / 1e15), 0.0), 3.0)
    return round(NEGATIVES_AT_1E15 * math.pow(MAX_NEGATIVES / NEGATIVES_AT_1E15, decades / 3))


class Slope(NamedTuple):
    """An exponent fitted by least squares in logarithms, its standard error, and the half of its 95 % interval."""

    exponent: float
    standard_error: float
    half_width: float


def published_slope() -> Slope:
    """The exponent of N* on C by ordinary least squares through the five points; that of D* is one minus it.

    The published 0.617 +- 0.025 is this fit with one standard error. With five points, three degrees of freedom, the 95 %
    interval is 3.18 standard errors wide to each side.
    """
    points = published()
    xs, ys = [math.log(p.flops) for p in points], [math.log(p.parameters) for p in points]
    x, y, freedom = sum(xs) / len(xs), sum(ys) / len(ys), len(points) - 2
    spread = sum((a - x) ** 2 for a in xs)
    exponent = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / spread
    residual = sum((b - y - exponent * (a - x)) ** 2 for a, b in zip(xs, ys, strict=True))
    error = math.sqrt(residual / freedom / spread)
    return Slope(exponent, error, STUDENT_95[freedom] * error)


def law_error(flops: float) -> float:
    """By which factor the D/N of the law differs from that of the published points, minus one."""
    return fitted_law(flops).events_per_parameter / compute_optimal(flops).events_per_parameter - 1


def plan_lines(flops: float) -> list[str]:
    """A plan for the terminal: by the published points, and by the law."""
    plan, law = compute_optimal(flops), fitted_law(flops)
    return [f"{flops:.3g} FLOPs, by the published points: {_described(plan)}", f"by the law through them: {_described(law)}"]


def data_notice(parameters: int, num_events: int) -> list[str]:
    """Lines for the terminal if there is less data than D* for a model of this size; none otherwise."""
    wanted = optimal_events(parameters)
    if num_events >= wanted:
        return []
    events, size = f"{short(num_events)} training events", f"a model of {short(parameters)} parameters"
    return [
        f"{events}; {size} is compute-optimal with {short(wanted)}: {wanted / num_events:,.0f} passes over the data",
        "a run that made them all would overfit: choose its length on the validation part (docs/training.md, How large a model)",
    ]


def _log_log(x: float, xs: Sequence[float], ys: Sequence[float], exponent: float) -> float:
    """Piecewise power law through the points, and a power law of `exponent` from the outermost ones; xs must increase."""
    if x <= xs[0] or x >= xs[-1]:
        end = 0 if x <= xs[0] else -1
        return ys[end] * math.pow(x / xs[end], exponent)
    right = next(i for i, known in enumerate(xs) if known >= x)
    share = math.log(x / xs[right - 1]) / math.log(xs[right] / xs[right - 1])
    return ys[right - 1] * math.pow(ys[right] / ys[right - 1], share)


def _described(plan: Allocation) -> str:
    parameters, events = short(plan.parameters), short(plan.events)
    return f"{parameters} parameters, {events} events, {plan.events_per_parameter:.0f} of them per parameter"


def short(count: float) -> str:
    """Three digits and a unit: 0.84M, 1.2M, 290M, 1.92B."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= 0.1 * size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"
