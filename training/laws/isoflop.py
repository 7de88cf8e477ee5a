"""IsoFLOP curves (Hoffmann et al. 2022, approach 2): a valley over sizes for each budget, and how its bottom moves with them.

A parabola misplaces the bottom if the valley is lopsided, the more the wider the grid (arXiv 2603.22339). The shift is nearly the
same at every budget, so exponents hardly suffer, but N* itself may be some per cent too small. `training/laws/parametric.py` does
not have this bias, and the report shows both.

R: runs, C: budgets, S: bootstrap draws
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from training.laws.allocation import exponents, power_law
from training.laws.resampling import draw_weights, percentiles
from training.laws.valley import Curve, Group, bottoms, fit_curves
from twotower.planning.compute_optimal import short
from twotower.planning.law import Interval, Optimum, PowerLaw

Array = npt.NDArray[np.float64]


class IsoFlop(NamedTuple):
    """The valleys of all budgets, and the exponents through their bottoms."""

    curves: list[Curve]  # one per budget
    events: list[Interval | None]  # at the bottom of each curve
    parameters_law: PowerLaw | None
    events_law: PowerLaw | None
    leave_one_out: dict[float, float]  # budget -> exponent of N* without it
    problems: list[str]

    def optima(self) -> list[Optimum]:
        """The bottoms inside their grids, with the metric as a loss."""
        return [
            Optimum(
                flops=curve.flops,
                parameters=curve.found.optimum,
                events=events,
                metric=curve.found.loss,
                num_runs=len(curve.size_R),
            )
            for curve, events in zip(self.curves, self.events, strict=True)
            if curve.found and events
        ]


def fit_isoflop(flops_R: Array, parameters_R: Array, events_R: Array, loss_R: Array) -> IsoFlop:
    """Valleys of every budget. What could not be fitted is a sentence in `problems`; nothing is extrapolated."""
    budgets = np.unique(flops_R)
    there = [flops_R == flops for flops in budgets]
    groups = [Group(float(flops), parameters_R[here], loss_R[here]) for flops, here in zip(budgets, there, strict=True)]
    curves = fit_curves(groups, "sizes", short)
    events = [
        events_at(curve.found.optimum, parameters_R[here], events_R[here]) if curve.found else None
        for curve, here in zip(curves, there, strict=True)
    ]
    problems = [curve.problem for curve in curves if curve.problem]
    found = [number for number, at in enumerate(events) if at]
    flops_C = budgets[found]
    size_C = np.array([curve.found.optimum.value for curve in curves if curve.found])
    events_C = np.array([at.value for at in events if at])
    try:
        laws = [power_law(flops_C, size_C), power_law(flops_C, events_C)]
    except ValueError as error:
        return IsoFlop(curves, events, None, None, {}, [*problems, str(error)])
    weights_SR = draw_weights(flops_R)
    draws = [bottoms(parameters_R[there[n]], loss_R[there[n]], weights_SR[:, there[n]]) for n in found]
    draws_S = exponents(flops_C, np.stack(draws, axis=1))
    by_noise = percentiles(laws[0].exponent.value, draws_S)
    laws[0] = PowerLaw(anchor=laws[0].anchor, at_anchor=laws[0].at_anchor, exponent=laws[0].exponent, bootstrap=by_noise)
    without = {} if len(found) <= 3 else {float(f): _exponent_without(flops_C, size_C, f) for f in flops_C}
    return IsoFlop(curves, events, laws[0], laws[1], without, problems)


def events_at(optimum: Interval, parameters_R: Array, events_R: Array) -> Interval:
    """D* and its interval. Events fall as parameters grow, so the ends of the interval change places.

    Between the runs of the budget we interpolate in logarithms; beyond them events follow the line through the outermost runs.
    """
    order = np.argsort(parameters_R)
    sizes, events = np.log(parameters_R[order]), np.log(events_R[order])
    slope = (events[-1] - events[0]) / (sizes[-1] - sizes[0])

    def at(size: float) -> float:
        inside = np.clip(np.log(size), sizes[0], sizes[-1])
        return float(np.exp(np.interp(inside, sizes, events) + slope * (np.log(size) - inside)))

    low, high = (None if end is None else at(end) for end in (optimum.high, optimum.low))
    return Interval(at(optimum.value), low, high)


def _exponent_without(flops_C: Array, size_C: Array, left_out: float) -> float:
    keep = flops_C != left_out
    return float(np.polyfit(np.log(flops_C[keep]), np.log(size_C[keep]), 1)[0])
