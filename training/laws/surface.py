"""The parametric law with its intervals and checks, and the metric that it lets one expect of a compute-optimal model.

R: runs, S: bootstrap draws
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from training.laws import parametric
from training.laws.parametric import Parametric
from training.laws.resampling import CONFIDENCE, DRAWS, draw_weights, expanded_percentiles
from twotower.planning.law import Expected, Surface

Array = npt.NDArray[np.float64]

NUM_PARAMETERS, MIN_BUDGETS, MIN_SIZES = 5, 3, 4
REACH = 10.0  # how far beyond the budgets and sizes of the runs a curve goes
POINTS_PER_DECADE = 4
SIZES = 600  # tried at a budget for its optimum


class Points(NamedTuple):
    """What a surface is fitted to."""

    flops_R: Array
    parameters_R: Array
    events_R: Array
    loss_R: Array

    def where(self, mask_R: npt.NDArray[np.bool_]) -> "Points":
        """Some of the runs."""
        return Points(*(values[mask_R] for values in self))


class Fitted(NamedTuple):
    """The surface, its bootstrap draws, and what follows from them."""

    law: Parametric
    draws: Parametric
    surface: Surface
    curve: list[Expected]  # of the loss


def fit_surface(points: Points, num_draws: int = DRAWS) -> Fitted:
    """ValueError with what to run next for too few budgets or sizes."""
    refuse_if_too_few(points)
    _, parameters_R, events_R, loss_R = points
    law = parametric.fit(parameters_R, events_R, loss_R)
    num_runs = len(loss_R)
    residual_R = np.log(loss_R) - np.log(law.at(parameters_R, events_R))
    refuse_if_flat(residual_R, loss_R)
    draws = parametric.refit(law, parameters_R, events_R, loss_R, draw_weights(points.flops_R, num_draws))
    noise = float(np.sqrt((residual_R**2).sum() / (num_runs - NUM_PARAMETERS)))
    within = [
        expanded_percentiles(float(value), draws_S, num_runs, NUM_PARAMETERS)
        for value, draws_S in zip((*law, law.size_exponent), (*draws, draws.size_exponent), strict=True)
    ]
    names = (*Parametric._fields, "size_exponent")
    surface = Surface(
        **dict(zip(names, within, strict=True)),
        relative_noise=noise,
        leave_one_out=leave_one_budget_out(points),
        held_out_error=held_out_error(points),
    )
    return Fitted(law, draws, surface, expected_curve(points, law, draws, residual_R * np.sqrt(num_runs / (num_runs - 5))))


def refuse_if_too_few(points: Points) -> None:
    """ValueError unless there are three budgets, four sizes, and a run more than parameters."""
    budgets, sizes = len(np.unique(points.flops_R)), len(np.unique(points.parameters_R))
    if budgets < MIN_BUDGETS:
        raise ValueError(f"{budgets} budgets, and the surface needs {MIN_BUDGETS}: run {MIN_BUDGETS - budgets} more")
    if sizes < MIN_SIZES:
        raise ValueError(f"{sizes} sizes, and the surface needs {MIN_SIZES}: run {MIN_SIZES - sizes} more")
    if len(points.loss_R) <= NUM_PARAMETERS:
        raise ValueError(f"{len(points.loss_R)} runs for {NUM_PARAMETERS} parameters of the surface: run more seeds or sizes")
    if points.loss_R.min() <= 0:
        raise ValueError("a loss of 0 or less has no logarithm: fit another metric")


def refuse_if_flat(residual_R: Array, loss_R: Array) -> None:
    """ValueError if the runs lie no nearer to the surface than to their mean, by an F test."""
    free, log_R = len(loss_R) - NUM_PARAMETERS, np.log(loss_R)
    around, total = (residual_R**2).sum(), ((log_R - log_R.mean()) ** 2).sum()
    chance = stats.f.sf(max(total - around, 0.0) / (NUM_PARAMETERS - 1) / max(around / free, 1e-300), NUM_PARAMETERS - 1, free)
    if chance > 1 - CONFIDENCE:
        raise ValueError("sizes and budgets change it no more than the noise of runs: run more seeds, or budgets further apart")


def limits_reached(law: Parametric) -> list[str]:
    """Sentences about exponents that the runs do not bound, because the search ended at its limit."""
    ends = {"alpha": (float(law.alpha), "sizes"), "beta": (float(law.beta), "budgets")}
    return [
        f"the runs do not bound {name} of the surface, which ends at {value:.3g}: run a wider range of {what}"
        for name, (value, what) in ends.items()
        if not 2 * parametric.LOWEST < value < 0.98 * parametric.HIGHEST
    ]


def leave_one_budget_out(points: Points) -> dict[str, float]:
    """The exponent of N* without the runs of each budget; empty if three budgets are all there are."""
    budgets = np.unique(points.flops_R)
    if len(budgets) <= MIN_BUDGETS:
        return {}
    parts = {f"{flops:.3g}": points.where(points.flops_R != flops) for flops in budgets}
    return {name: float(parametric.fit(*part[1:]).size_exponent) for name, part in parts.items()}


def held_out_error(points: Points) -> float | None:
    """Root mean square relative error at the largest budget of a surface fitted to the others; None with three budgets."""
    budgets = np.unique(points.flops_R)
    if len(budgets) <= MIN_BUDGETS:
        return None
    known, held_out = (points.where(mask) for mask in (points.flops_R < budgets[-1], points.flops_R == budgets[-1]))
    law = parametric.fit(*known[1:])
    errors_R = law.at(held_out.parameters_R, held_out.events_R) / held_out.loss_R - 1
    return float(np.sqrt((errors_R**2).mean()))


def expected_curve(points: Points, law: Parametric, draws: Parametric, residual_R: Array) -> list[Expected]:
    """The loss of the best size at budgets from a decade below the runs to a decade above, with the interval for a further run.

    The interval adds the noise of one run to what the draws say of the surface.
    """
    low, high = np.log10(points.flops_R.min() / REACH), np.log10(points.flops_R.max() * REACH)
    budgets = np.logspace(low, high, round((high - low) * POINTS_PER_DECADE) + 1)
    noise_S = np.random.default_rng(0).choice(residual_R, len(draws.E))
    curve = []
    for flops in budgets:
        parameters, events = optimum(points, law, float(flops))
        value = float(law.at(np.array(parameters), np.array(events)))
        draws_S = draws.at(np.array(parameters), np.array(events)) * np.exp(noise_S)
        within = expanded_percentiles(value, draws_S, len(points.loss_R), NUM_PARAMETERS)
        ends = [value if end is None else end for end in (within.low, within.high)]
        curve.append(Expected(flops=float(flops), value=value, low=min(ends[0], value), high=max(ends[1], value)))
    return curve


def optimum(points: Points, law: Parametric, flops: float) -> tuple[float, float]:
    """N* and D* of the surface at a budget, no further than a decade from the sizes of the runs.

    How many events a budget pays for at a size is taken from the runs.
    """
    cost = cost_of_runs(points)
    sizes = np.geomspace(points.parameters_R.min() / REACH, points.parameters_R.max() * REACH, SIZES)
    events = flops / (sizes * cost_at(cost, sizes, flops))
    best = int(np.argmin(law.at(sizes, events)))
    return float(sizes[best]), float(events[best])


def cost_of_runs(points: Points) -> Array:
    """FLOPs per parameter and event of the runs, as a plane in logarithms of size and budget: 6 where C = 6ND."""
    terms = np.stack([np.ones(len(points.loss_R)), np.log(points.parameters_R), np.log(points.flops_R)], axis=1)
    cost_R = np.log(points.flops_R / (points.parameters_R * points.events_R))
    plane: Array = np.linalg.lstsq(terms, cost_R, rcond=None)[0]
    return plane


def cost_at(plane: Array, sizes: Array, flops: float) -> Array:
    """FLOPs per parameter and event."""
    cost: Array = np.exp(plane[0] + plane[1] * np.log(sizes) + plane[2] * np.log(flops))
    return cost
