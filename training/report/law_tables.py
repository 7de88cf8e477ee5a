"""The tables of a page of laws: optima, exponents, and rank correlations."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from training.laws.agreement import MIN_RUNS, Agreement, agreement, agreements_by_budget
from training.laws.fitting import USUAL, MetricFit
from training.laws.negatives import by_way
from training.laws.selection import as_loss, by_budget, label_of_loss
from training.report import law_figures as figures
from training.sweeps.ledger import Run
from twotower.planning.compute_optimal import fitted_law, short
from twotower.planning.law import Interval, Surface
from twotower.report.numbers import NOTHING, percent
from twotower.report.parts import Figure, Matrix, Table, triangle
from twotower.report.svg import Draw

Keep = Callable[[str, str, Draw, int | None], Figure]  # draws under a name, with a title and a number of rows
COUNTER = "recall@10"  # the metric whose agreement with the loss is drawn


def optima_table(fit: MetricFit) -> Table | None:
    """The best size of every budget, with intervals, beside that of the published law; None without a valley."""
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
    return Table(f"The best size of each budget by {fit.metric}, with 95 % intervals (Fieller).", columns, rows) if rows else None


def summary_tables(fits: Sequence[MetricFit]) -> list[Table]:
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
    below = Table(about, ["fitted", "E", "alpha", "beta", "noise", "error at the largest budget"], surfaces)
    return [Table(caption, columns, exponents), *([below] if surfaces else [])]


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
    left_out = f"{min(without):.2f} to {max(without):.2f}" if without else NOTHING
    return [*(ratio(within) if within else NOTHING for within in cells), left_out]


def surface_cells(found: Surface) -> list[str]:
    """Parameters and checks of the surface."""
    error = NOTHING if found.held_out_error is None else percent(found.held_out_error, 2)
    return [*(ratio(within) for within in (found.E, found.alpha, found.beta)), percent(found.relative_noise, 2), error]


@dataclass(frozen=True, slots=True)
class Agreements:
    """Whether metrics agree: drawings of a loss against recall, and a matrix of all metrics for each budget."""

    figures: list[Figure]
    matrices: list[Matrix]


def agreements(keep: Keep, name: str, runs: Sequence[Run], metrics: Sequence[str]) -> Agreements:
    """Rank correlations of the metrics per budget, and how the losses correlate with recall."""
    names = [metric for metric in (*USUAL, "batch_local_loss", "train_loss") if metric in metrics]
    drawn = []
    for loss in [metric for metric in names if metric.endswith("loss") and COUNTER in names]:
        title = f"{loss} against {COUNTER}"
        rows = [(one.label, one.between(loss, COUNTER)) for one in by_budget_and_way(runs, [loss, COUNTER])]
        if known := [(label, within) for label, within in rows if not math.isnan(within.value)]:
            drawn.append(keep(f"agreement-{name}-{loss}", title, whiskers(known), len(known)))
        if series := by_number(runs, loss):
            about = f"{title}, runs of one K and budget, which differ in size"
            drawn.append(keep(f"agreement-by-k-{name}-{loss}", about, figures.by_number(series), None))
    return Agreements(drawn, [matrix(one) for one in agreements_by_budget(runs, names)])


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


def whiskers(rows: Sequence[tuple[str, Interval]]) -> Draw:
    """A drawing of correlations with their intervals."""

    def draw(axes: Axes) -> None:
        figures.whisker_rows(rows, "rank correlation, with 95 % interval", middle=0.0)(axes)
        axes.set_xlim(-1.05, 1.05)

    return draw


def matrix(found: Agreement) -> Matrix:
    """The lower triangle of the correlations."""
    about = f"{found.label}: Spearman's rank correlation over {found.num_runs} runs; columns are numbered as rows."
    return triangle(about, found.metrics, found.correlation.tolist())


def counted(within: Interval) -> str:
    """A count with its interval: 41k [30k, 55k]."""
    low, high = (word if end is None else short(end) for end, word in ((within.low, "0"), (within.high, "inf")))
    return f"{short(within.value)} [{low}, {high}]"


def ratio(within: Interval) -> str:
    """An exponent with its interval."""
    low, high = (word if end is None else f"{end:.2f}" for end, word in ((within.low, "-inf"), (within.high, "inf")))
    return f"{within.value:.3f} [{low}, {high}]"
