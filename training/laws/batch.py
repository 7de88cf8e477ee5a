"""The critical batch: from which size on a larger batch wastes events (McCandlish et al. 2018, arXiv 1812.06162).

Steps S and events E = B S to a fixed value of the metric obey S = Smin (1 + Bcrit / B), so E = Emin (1 + B / Bcrit). Where runs
of one size were trained for several numbers of events, we read off E at a target between them and fit this. Where all were
trained for the same number of events, there is no target to reach; then we fit loss = floor + slope log(1 + B / Bcrit), which
follows if the loss is linear in the logarithm of the events, and call Bcrit the knee. Each result says which of the two it is.

R: runs, T: values of Bcrit that are tried
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from training.laws.resampling import CONFIDENCE, bound
from training.laws.selection import by_budget, column, label_of_loss, losses
from training.sweeps.ledger import Run
from twotower.planning.law import Interval

Array = npt.NDArray[np.float64]

TO_TARGET, AT_FIXED_EVENTS = "events to reach a target", "loss after the same number of events"
MIN_BATCHES = 4
TRIED = 600  # values of Bcrit, from a hundredth of the smallest batch to a hundred times the largest


class Knee(NamedTuple):
    """A fitted knee."""

    metric: str
    how: str  # TO_TARGET or AT_FIXED_EVENTS
    flops: float  # the budget; the largest one for a target
    target: float | None  # as a loss
    batch_R: Array
    value_R: Array  # events, or the loss
    batch: Interval  # Bcrit; infinite ends where the batches tried do not bound it
    linear: Array  # intercept and slope of the value (or of its logarithm) in log(1 + B / Bcrit)
    problem: str

    def at(self, batch: Array) -> Array:
        """The fitted value."""
        value: Array = self.linear[0] + self.linear[1] * np.log1p(batch / self.batch.value)
        return np.exp(value) if self.how == TO_TARGET else value


def knees(runs: Sequence[Run], metric: str) -> list[Knee]:
    """A knee for each budget, or for a target that all batches reach if runs of one size were trained for several budgets.

    ValueError with what to run next for fewer than four batches.
    """
    groups = by_budget(runs)
    if len(groups) >= 2 and (reached := events_to_target(runs, metric)) is not None:
        target, batch_R, events_R = reached
        return [fit_knee(metric, TO_TARGET, max(groups), target, batch_R, events_R)]
    return [
        fit_knee(metric, AT_FIXED_EVENTS, flops, None, column(here, lambda run: run.batch), losses(here, metric))
        for flops, here in groups.items()
    ]


def fit_knee(metric: str, how: str, flops: float, target: float | None, batch_R: Array, value_R: Array) -> Knee:
    """Least squares over Bcrit, the rest solved for; the interval holds every Bcrit that an F test does not reject."""
    if (num := len(np.unique(batch_R))) < MIN_BATCHES:
        raise ValueError(
            f"at {flops:.3g} FLOPs there are only {num} batch sizes, and a knee needs {MIN_BATCHES}: run {MIN_BATCHES - num} more"
        )
    fitted_R = np.log(value_R) if how == TO_TARGET else value_R
    tried_T = np.geomspace(batch_R.min() / 100, batch_R.max() * 100, TRIED)
    x_TR = np.log1p(batch_R / tried_T[:, None])
    if how == TO_TARGET:
        slope_T, num_fitted = np.ones(TRIED), 2
    else:
        centred_TR = x_TR - x_TR.mean(1, keepdims=True)
        slope_T, num_fitted = np.maximum(centred_TR @ fitted_R / (centred_TR**2).sum(1), 0.0), 3
    floor_T = (fitted_R - slope_T[:, None] * x_TR).mean(1)
    error_T = ((fitted_R - floor_T[:, None] - slope_T[:, None] * x_TR) ** 2).sum(1)
    best, left = int(np.argmin(error_T)), len(batch_R) - num_fitted
    allowed = error_T[best] * (1 + (stats.f.ppf(CONFIDENCE, 1, left) / left if left > 0 else np.inf))
    inside = np.flatnonzero(error_T <= allowed)
    low, high = (None if end in (0, TRIED - 1) else bound(tried_T[end]) for end in (inside[0], inside[-1]))
    batch = Interval(float(tried_T[best]), low, high)
    linear = np.array([floor_T[best], slope_T[best]])
    problem = _problem(metric, flops, batch, float(batch_R.min()), float(batch_R.max()), float(slope_T[best]))
    return Knee(metric, how, flops, target, batch_R, value_R, batch, linear, problem)


def events_to_target(runs: Sequence[Run], metric: str) -> tuple[float, Array, Array] | None:
    """The loss that every batch reaches with the runs it has, the batches, and the events each needs; None if there is none.

    The target is halfway between the best loss of the worst batch and the worst loss of the best, so that all interpolate.
    """
    batches = np.array(sorted({run.settings.get("batch_windows", run.batch) for run in runs}))
    groups = [[run for run in runs if run.settings.get("batch_windows", run.batch) == batch] for batch in batches]
    if len({run.parameters for run in runs}) > 1 or any(len({run.events for run in group}) < 2 for group in groups):
        return None
    curves = [_by_events(group, metric) for group in groups]
    reached, begun = max(loss.min() for _, loss in curves), min(loss.max() for _, loss in curves)
    if reached >= begun:
        return None
    target = (reached + begun) / 2
    events_R = np.array([np.exp(np.interp(-target, -np.maximum.accumulate(loss[::-1])[::-1], log)) for log, loss in curves])
    return float(target), np.array([np.mean([run.batch for run in group]) for group in groups]), events_R


def _by_events(runs: Sequence[Run], metric: str) -> tuple[Array, Array]:
    """Logarithms of the events, and the mean loss at each."""
    events_R, loss_R = column(runs, lambda run: run.events), losses(runs, metric)
    events = np.unique(events_R)
    return np.log(events), np.array([loss_R[events_R == count].mean() for count in events])


def _problem(metric: str, flops: float, batch: Interval, smallest: float, largest: float, slope: float) -> str:
    where = f"{label_of_loss(metric)} at {flops:.3g} FLOPs has no knee between batches of {smallest:,.0f} and {largest:,.0f}"
    if slope <= 0:
        return f"{where}: larger batches cost nothing yet, so run larger ones"
    if batch.value < smallest:
        return f"{where}: it grows from the smallest on, so run smaller ones"
    if batch.value > largest:
        return f"{where}: it has hardly begun to grow, so run larger ones"
    if batch.low is None or batch.high is None:
        return f"the knee of {label_of_loss(metric)} at {flops:.3g} FLOPs is within the noise of its runs: run more seeds"
    return ""
