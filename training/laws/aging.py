"""How a frozen model ages, and whether larger models age faster.

Models whose training data end at different times are measured in the same periods, all of them in the last one. A run holds its
metrics under names such as `week 12.9: set_loss`: 12.9 weeks lie between the end of its training data and the period. We fit

    loss = size + period + age x (rate + by_decade x log10(parameters))

by least squares: a period that is hard is hard for every model in it, so that what is left is age. A model that was frozen early
has also seen fewer events; that is part of its age here, as it is in production. Errors are clustered by run.

R: runs, M: measurements (a run in a period), K: terms
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from training.laws.resampling import student_t
from training.laws.selection import as_loss
from training.sweeps.ledger import Run
from twotower.planning.law import Interval

Array = npt.NDArray[np.float64]

_AGED = re.compile(r"(?P<unit>[a-z]+) (?P<age>\d+(\.\d+)?): (?P<metric>.+)")
MIN_AGES, MIN_RUNS = 3, 4


class Aging(NamedTuple):
    """The fit for one metric; losses as `training.laws.selection.as_loss` makes them."""

    metric: str
    unit: str  # of age, such as "week"
    age_M: Array
    parameters_M: Array
    adjusted_M: Array  # the loss without the effect of its period
    fresh: dict[float, float]  # parameters -> fitted loss at age 0
    rate: Interval  # loss per unit of age, of a model of the geometric mean of the sizes
    by_decade: Interval | None  # how much larger the rate of a model of ten times the parameters; None for one size
    centre: float  # the geometric mean of the sizes

    def at(self, parameters: float, age: Array) -> Array:
        """The fitted loss of a size, without the effect of a period."""
        more = self.by_decade.value * np.log10(parameters / self.centre) if self.by_decade else 0.0
        loss: Array = self.fresh[parameters] + age * (self.rate.value + more)
        return loss


def aged_metrics(runs: Sequence[Run]) -> list[str]:
    """The metrics that runs have for their ages."""
    return list(dict.fromkeys(found["metric"] for run in runs for name in run.metrics if (found := _AGED.fullmatch(name))))


def fit_aging(runs: Sequence[Run], metric: str) -> Aging:
    """Rates of aging. ValueError with what to run next for fewer than four runs, or fewer than three ages in the last period."""
    cells = [(run, number, *cell) for run in runs for number, cell in enumerate(reversed(_by_age(run, metric)))]
    if len(runs) < MIN_RUNS or (ages := len({age for _, number, age, _ in cells if number == 0})) < MIN_AGES:
        raise ValueError(
            f"{len(runs)} runs of aging models: rates with intervals need {MIN_RUNS}, whose training data end at {MIN_AGES} "
            f"different times at least; `twotower sweep drift` runs them"
        )
    assert ages
    age_M, loss_M = (np.array([cell[place] for cell in cells], float) for place in (2, 3))
    loss_M = as_loss(metric, loss_M)
    parameters_M = np.array([run.parameters for run, *_ in cells], float)
    period_M, run_M = np.array([number for _, number, *_ in cells]), np.array([run.key for run, *_ in cells])
    log_M = np.log10(parameters_M)
    sizes, periods = np.unique(parameters_M), np.unique(period_M)
    columns = [parameters_M == size for size in sizes] + [period_M == period for period in periods[1:]] + [age_M]
    if len(sizes) > 1:
        columns.append(age_M * (log_M - log_M.mean()))
    terms_MK = np.stack(columns, axis=1).astype(np.float64)
    fitted_K = np.linalg.lstsq(terms_MK, loss_M, rcond=None)[0]
    error_K = _clustered_errors(terms_MK, loss_M - terms_MK @ fitted_K, run_M) * student_t(len(runs) - 1)
    first = len(sizes) + len(periods) - 1
    rates = [Interval(*(float(fitted_K[k] + side * error_K[k]) for side in (0, -1, 1))) for k in range(first, len(fitted_K))]
    effect_M = terms_MK[:, len(sizes) : first] @ fitted_K[len(sizes) : first]
    unit = next(found["unit"] for name in runs[0].metrics if (found := _AGED.fullmatch(name)))
    return Aging(
        metric,
        unit,
        age_M,
        parameters_M,
        loss_M - effect_M,
        {float(size): float(fitted_K[number]) for number, size in enumerate(sizes)},
        rates[0],
        rates[1] if len(sizes) > 1 else None,
        float(10 ** log_M.mean()),
    )


def _clustered_errors(terms_MK: Array, residual_M: Array, run_M: npt.NDArray[np.str_]) -> Array:
    """Standard errors of least squares whose errors are correlated within a run (CR1)."""
    bread = np.linalg.pinv(terms_MK.T @ terms_MK)
    runs = np.unique(run_M)
    scores = np.stack([terms_MK[run_M == run].T @ residual_M[run_M == run] for run in runs])
    few = len(runs) / (len(runs) - 1) * (len(residual_M) - 1) / max(len(residual_M) - terms_MK.shape[1], 1)
    errors: Array = np.sqrt(np.diag(bread @ (scores.T @ scores) @ bread) * few)
    return errors


def _by_age(run: Run, metric: str) -> list[tuple[float, float]]:
    """Ages and values of a metric, the youngest first."""
    found = ((_AGED.fullmatch(name), value) for name, value in run.metrics.items())
    return sorted((float(match["age"]), value) for match, value in found if match and match["metric"] == metric)
