"""The tables of a page of laws: optima, exponents, and rank correlations."""

import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes

from training.laws.agreement import MIN_RUNS, Agreement, agreement, agreements_by_budget
from training.laws.fitting import USUAL, MetricFit
from training.laws.negatives import by_way
from training.laws.selection import as_loss, by_budget, label_of_loss
from training.report import law_figures as figures
from training.sweeps.ledger import Run
from twotower.planning.compute_optimal import fitted_law, short
from twotower.planning.law import Interval, Surface
from twotower.report.page import Markup, correlation_cell, element, joined, table

Draw = Callable[[str, str, Callable[[Axes], None]], Markup]
COUNTER = "recall@10"  # the metric whose agreement with the loss is drawn


def optima_table(fit: MetricFit) -> Markup:
    """The best size of every budget, with intervals, beside that of the published law."""
    rows = [
        [
            f"{one.flops:.3g}",
            counted(one.parameters),
            counted(one.events),
            f"{one.events.value / one.parameters.value:,.1f}",
            f"{as_loss(fit.metric, one.metric):.4g}",
            short(fitted_law(one.flops).parameters),
            short(fitted_law(one.flops).events),
        ]
        for one in fit.valleys.optima()
    ]
    columns = ["FLOPs", "N*", "D*", "D*/N*", fit.metric, "N*, published law", "D*, published law"]
    return table(f"Optima by {fit.metric}, with 95 % intervals (Fieller).", columns, rows) if rows else Markup("")


def summary_table(fits: Sequence[MetricFit]) -> Markup:
    """Exponents of both approaches for every metric, and how well the surface holds."""
    caption = (
        "Exponents of FLOPs, with 95 % intervals: Student's t over the budgets, and the bootstrap over runs. The published ones "
        "are 0.617 and 0.383. The surface gives an exponent of its own."
    )
    columns = ["fitted", "N*", "N*, from noise alone", "D*", "N*, surface", "N*, surface, a budget left out"]
    exponents = [[label_of_loss(fit.metric), *exponent_cells(fit)] for fit in fits]
    surfaces = [[label_of_loss(fit.metric), *surface_cells(fit.fitted.surface)] for fit in fits if fit.fitted]
    about = (
        "The surface through all runs. Noise: standard deviation of a run around it. Last column: its error at the largest "
        "budget when it was fitted without that budget."
    )
    below = table(about, ["fitted", "E", "alpha", "beta", "noise", "error at the largest budget"], surfaces)
    return joined([table(caption, columns, exponents), below if surfaces else ""])


def exponent_cells(fit: MetricFit) -> list[str]:
    """Exponents of N* and D*, a dash where there is none."""
    parameters, events, surface = fit.valleys.parameters_law, fit.valleys.events_law, fit.fitted and fit.fitted.surface
    without = surface.leave_one_out.values() if surface else []
    cells = (
        parameters and parameters.exponent,
        parameters and parameters.bootstrap,
        events and events.exponent,
        surface and surface.size_exponent,
    )
    left_out = f"{min(without):.2f} to {max(without):.2f}" if without else "-"
    return [*(ratio(within) if within else "-" for within in cells), left_out]


def surface_cells(found: Surface) -> list[str]:
    """Parameters and checks of the surface."""
    error = "-" if found.held_out_error is None else f"{found.held_out_error:.2%}"
    return [*(ratio(within) for within in (found.E, found.alpha, found.beta)), f"{found.relative_noise:.2%}", error]


def agreement_section(draw: Draw, name: str, runs: Sequence[Run], metrics: Sequence[str]) -> Markup:
    """A matrix of rank correlations per budget, and how the losses correlate with recall."""
    names = [metric for metric in (*USUAL, "batch_local_loss", "train_loss") if metric in metrics]
    matrices = [element("div", matrix(one), kind="matrix") for one in agreements_by_budget(runs, names)]
    drawn = []
    for loss in [metric for metric in names if metric.endswith("loss") and COUNTER in names]:
        title = f"Spearman({loss}, {COUNTER}); -1 is agreement"
        rows = [(one.label, one.between(loss, COUNTER)) for one in by_budget_and_way(runs, [loss, COUNTER])]
        if known := [(label, within) for label, within in rows if not math.isnan(within.value)]:
            drawn.append(draw(f"agreement-{name}-{loss}", title, whiskers(known)))
        if series := by_number(runs, loss):
            about = f"{title}; runs of one K and budget, which differ in size"
            drawn.append(draw(f"agreement-by-k-{name}-{loss}", about, figures.by_number(series)))
    parts = (element("div", *some, kind="charts wide") for some in (drawn, matrices) if some)
    return joined(list(parts))


def by_budget_and_way(runs: Sequence[Run], metrics: Sequence[str]) -> list[Agreement]:
    """Rank correlations for every budget, and where runs differ in how negatives are drawn, for each way."""
    ways = by_way(runs)
    found = []
    for way, drawn in ways.items():
        ending = f", {way.rpartition(', ')[2]}" if len(ways) > 1 else ""
        for flops, here in by_budget(drawn).items():
            if len(here) >= MIN_RUNS:
                found.append(agreement(f"{figures.budget(flops)}{ending}", here, metrics))
    return found


def by_number(runs: Sequence[Run], loss: str) -> dict[str, list[tuple[int, float]]]:
    """For each budget and way of drawing, the rank correlation of loss and recall at every number of negatives."""
    numbers = sorted({run.negatives for run in runs})
    series: dict[str, list[tuple[int, float]]] = {}
    for way, drawn in by_way(runs).items():
        for flops, here in by_budget(drawn).items():
            parts = {number: [run for run in here if run.negatives == number] for number in numbers}
            points = [
                (number, agreement("", part, [loss, COUNTER]).between(loss, COUNTER).value)
                for number, part in parts.items()
                if len(part) >= MIN_RUNS
            ]
            if len(points) > 1:
                series[f"{figures.budget(flops)}, {way.rpartition(', ')[2]}"] = points
    return series


def whiskers(rows: Sequence[tuple[str, Interval]]) -> Callable[[Axes], None]:
    """A drawing of correlations with their intervals."""

    def draw(axes: Axes) -> None:
        figures.whisker_rows(axes, rows, "rank correlation, with 95 % interval", middle=0.0)
        axes.set_xlim(-1.05, 1.05)

    return draw


def matrix(found: Agreement) -> Markup:
    """The lower triangle of the correlations."""
    rows = [
        [f"{place} {metric}", *(correlation_cell(float(value)) for value in found.correlation[place - 1, :place])]
        for place, metric in enumerate(found.metrics, start=1)
    ]
    caption = f"{found.label}: Spearman's rank correlation over {found.num_runs} runs; columns are numbered as rows."
    return table(caption, ["", *range(1, len(found.metrics) + 1)], rows)


def counted(within: Interval) -> str:
    """A count with its interval: 41k [30k, 55k]."""
    low, high = (word if end is None else short(end) for end, word in ((within.low, "0"), (within.high, "inf")))
    return f"{short(within.value)} [{low}, {high}]"


def ratio(within: Interval) -> str:
    """An exponent with its interval."""
    low, high = (word if end is None else f"{end:.2f}" for end, word in ((within.low, "-inf"), (within.high, "inf")))
    return f"{within.value:.3f} [{low}, {high}]"
