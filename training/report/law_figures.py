"""The drawings of fitted laws. Each function draws on axes what one fit found; metrics are drawn as they are measured.

R: runs
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from training.laws.aging import Aging
from training.laws.batch import TO_TARGET, Knee
from training.laws.selection import as_loss
from training.laws.valley import Curve, Valley
from twotower.metrics.names import LOSSES
from twotower.planning.compute_optimal import short
from twotower.planning.law import Expected, Interval, Optimum, PowerLaw
from twotower.report.charts import Whisker, key, log_ticks
from twotower.report.charts import whiskers as rows_of_whiskers
from twotower.report.svg import FAINT, FIRST, INK, SECOND, THIRD, Draw

Array = npt.NDArray[np.float64]

# Readable on white and on black alike, in the order of budgets or sizes.
COLOURS = ("#5b6ee1", "#2f8fd0", "#1fa187", "#6a9f2a", "#c98a10", "#d1573a", "#b0418f")
MARKS = ("o", "s", "^", "D")
SMOOTH = 200  # points of a curve


def valleys(axes: Axes, metric: str, curves: Sequence[Curve], noun: str) -> None:
    """Runs, curves and optima of every budget. A star is a bottom inside the sizes; its whisker is the 95 % interval."""
    for curve, colour in zip(curves, colours(len(curves)), strict=True):
        label = budget(curve.flops)
        axes.scatter(curve.size_R, as_loss(metric, curve.loss_R), s=16, color=colour, label=label, zorder=3, linewidths=0)
        if curve.valley is None:
            continue
        x = np.geomspace(curve.valley.smallest, curve.valley.largest, SMOOTH)
        axes.plot(x, as_loss(metric, curve.valley.at(x)), color=colour, linewidth=1.3, linestyle="-" if curve.found else ":")
        if curve.found:
            whisker(axes, curve.found, as_loss(metric, curve.found.loss), colour)
    log_axis(axes)
    axes.set_xlabel(noun)
    axes.set_ylabel(unit(metric))
    key(axes, "FLOPs")


def band(axes: Axes, curves: Sequence[Curve]) -> None:
    """The sizes between which the noise of a run hides the difference to the optimum."""
    for curve, colour in zip(curves, colours(len(curves)), strict=True):
        if curve.found and curve.found.flat:
            low, high = np.clip(curve.found.flat, curve.found.smallest, curve.found.largest)
            axes.axvspan(low, high, color=colour, alpha=0.12, linewidth=0)


def frontier(axes: Axes, optima: Sequence[Optimum], law: PowerLaw | None, what: str, published: Array, surface: Array) -> None:
    """N* or D* of each budget with its interval, the power law through them, and for comparison two other curves [2, points].

    `published` is the law of the paper, and `surface` what the parametric law says.
    """
    flops = np.array([one.flops for one in optima])
    found = [one.parameters if what == "parameters" else one.events for one in optima]
    axes.errorbar(
        flops, [one.value for one in found], yerr=whiskers(found), fmt="*", color=FIRST, markersize=9, linewidth=1.2, zorder=4
    )
    axes.plot(*published, color=SECOND, linewidth=1.4, linestyle=(0, (4, 3)), label="published law")
    if surface.size:
        axes.plot(*surface, color=THIRD, linewidth=1.4, linestyle=(0, (1, 1.5)), label="surface")
    if law:
        line = np.geomspace(flops.min(), flops.max(), 2)
        axes.plot(line, [law.at(x) for x in line], color=FIRST, linewidth=1.6, label=f"runs: exponent {law.exponent.value:.2f}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    log_ticks(axes.xaxis, budget)
    log_ticks(axes.yaxis, tick)
    axes.set_xlabel("budget (FLOPs)")
    axes.set_ylabel(what)
    key(axes)


def expected(axes: Axes, metric: str, curve: Sequence[Expected], flops_R: Array, loss_R: Array) -> None:
    """The metric of the best size against the budget, the interval for a further run, and the best run of each budget."""
    x = [one.flops for one in curve]
    axes.fill_between(x, [one.low for one in curve], [one.high for one in curve], color=FIRST, alpha=0.15, linewidth=0)
    axes.plot(x, [one.value for one in curve], color=FIRST, linewidth=1.6)
    budgets = np.unique(flops_R)
    best = [as_loss(metric, float(loss_R[flops_R == flops].min())) for flops in budgets]
    axes.plot(budgets, best, "o", color=INK, markersize=4)
    axes.axvspan(budgets[0], budgets[-1], color=FAINT, alpha=0.07, linewidth=0)
    axes.set_xscale("log")
    log_ticks(axes.xaxis, budget)
    axes.set_xlabel("budget (FLOPs; grey: those of the runs)")
    axes.set_ylabel(unit(metric))


def knee(axes: Axes, found: Knee) -> None:
    """Values of all batches, the fitted curve, and the critical batch with its interval if it is inside the batches."""
    x = np.geomspace(found.batch_R.min(), found.batch_R.max(), SMOOTH)
    values, fitted = found.value_R, found.at(x)
    if found.how != TO_TARGET:
        values, fitted = as_loss(found.metric, values), as_loss(found.metric, fitted)
    axes.scatter(found.batch_R, values, s=14, color=FIRST, zorder=3, linewidths=0)
    axes.plot(x, fitted, color=FIRST, linewidth=1.4, linestyle=":" if found.problem else "-")
    if not found.problem:
        low, high = (end or found.batch.value for end in (found.batch.low, found.batch.high))
        axes.axvspan(max(low, x[0]), min(high, x[-1]), color=SECOND, alpha=0.14, linewidth=0)
        axes.axvline(found.batch.value, color=SECOND, linewidth=1.3, linestyle=(0, (4, 3)))
    log_axis(axes)
    axes.set_xlabel("batch (queries a step)")
    axes.set_ylabel("events to the target" if found.how == TO_TARGET else unit(found.metric))


def whisker_rows(rows: Sequence[tuple[str, Interval]], name: str, middle: float | None = None) -> Draw:
    """One estimate with its interval per row; a row without bounds is a hollow point."""
    return rows_of_whiskers([Whisker(label, within.value, within.low, within.high) for label, within in rows], name, middle)


def by_number(series: Mapping[str, Sequence[tuple[int, float]]]) -> Callable[[Axes], None]:
    """Rank correlations against the number of negatives, a line for each series."""

    def draw(axes: Axes) -> None:
        for (label, points), colour, mark in zip(series.items(), colours(len(series)), MARKS * len(series), strict=False):
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=colour, linewidth=1.2, marker=mark, markersize=4, label=label)
        axes.axhline(0, color=FAINT, linewidth=0.8)
        axes.set_ylim(-1.08, 1.08)
        log_axis(axes)
        axes.set_xlabel("negatives K (a step)")
        axes.set_ylabel("rank correlation")
        key(axes)

    return draw


def aging(axes: Axes, found: Aging) -> None:
    """Losses by age without what their period adds, and the fitted line of each size."""
    sizes = np.unique(found.parameters_M)
    for size, colour in zip(sizes, colours(len(sizes)), strict=True):
        mine = found.parameters_M == size
        shown = as_loss(found.metric, found.adjusted_M[mine])
        axes.scatter(found.age_M[mine], shown, s=12, color=colour, linewidths=0, label=short(float(size)))
        line = np.array([0.0, found.age_M.max()])
        axes.plot(line, as_loss(found.metric, found.at(float(size), line)), color=colour, linewidth=1.4)
    axes.set_xlabel(f"{found.unit}s since the end of the training data")
    axes.set_ylabel(unit(found.metric))
    key(axes, "parameters")


def budget(flops: float) -> str:
    """A budget as short as it can be: 2.5e11."""
    return f"{flops:.3g}".replace("e+", "e")


def colours(count: int) -> list[str]:
    """Colours for so many series, far apart where they are few."""
    places = np.linspace(0, len(COLOURS) - 1, count).round().astype(int) if count <= len(COLOURS) else np.arange(count)
    return [COLOURS[place % len(COLOURS)] for place in places]


def whisker(axes: Axes, valley: Valley, at: float, colour: str) -> None:
    """A star, and its interval as a horizontal whisker, cut off at the sizes that were tried."""
    ends = np.clip(
        [end or valley.optimum.value for end in (valley.optimum.low, valley.optimum.high)], valley.smallest, valley.largest
    )
    axes.plot(ends, [at, at], color=colour, linewidth=2.2, alpha=0.5, solid_capstyle="butt")
    axes.plot(valley.optimum.value, at, "*", color=colour, markersize=11, markeredgecolor=INK, markeredgewidth=0.5, zorder=5)


def whiskers(found: Sequence[Interval]) -> Array:
    """Lengths of the whiskers below and above [2, points]; none where there is no bound."""
    ends = [(one.value - (one.low or one.value), (one.high or one.value) - one.value) for one in found]
    return np.array(ends, float).reshape(-1, 2).T


def log_axis(axes: Axes) -> None:
    """A logarithmic x axis whose ticks are counts or shares."""
    axes.set_xscale("log")
    log_ticks(axes.xaxis, tick)


def unit(metric: str) -> str:
    """A metric as an axis names it."""
    return f"{metric} (nats)" if metric in LOSSES or metric == "entropy" else metric


def tick(value: float) -> str:
    """A size at a tick: a share in per cent, a count with its unit."""
    if value <= 1:
        return f"{100 * value:g} %"
    size, unit = next(((size, unit) for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if value >= size), (1.0, ""))
    return f"{value / size:g}{unit}"
