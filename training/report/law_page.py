"""The HTML page of a ledger: every law and figure that its runs allow, and what to run next where they allow none."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from training.laws.aging import aged_metrics, fit_aging
from training.laws.batch import TO_TARGET, knees
from training.laws.fitting import SWEEP, USUAL, MetricFit, fit_metric
from training.laws.negatives import negatives_curves
from training.laws.selection import Chosen, as_loss, choose, metrics_of
from training.laws.share import percent, share_curves
from training.laws.surface import optimum
from training.laws.valley import Curve
from training.report import law_figures as figures
from training.report.law_tables import agreements, counted, optima_table, summary_tables
from training.sweeps.ledger import Run
from twotower.planning.compute_optimal import fitted_law, short
from twotower.planning.law import Interval
from twotower.report import page
from twotower.report.parts import Figure, Matrix, Table, Verdict
from twotower.report.svg import Draw, figure

TEMPLATE = Path(__file__).with_name("laws.html")
SHOWN = ("set_loss", "recall@10", "ndcg@10")  # beside the isoFLOP valleys, which show every metric
FRONTIER = 40  # points of a drawn frontier
MEANINGS = {
    "C, N, D": "budget in FLOPs, parameters, and events read in training; C = 6 N D",
    "N*, D*": "the parameters and events of the best model of a budget",
    "isoFLOP runs": "runs of one budget whose models differ in size",
    "star": "the bottom of a parabola in log N through the runs of a budget",
    "surface": "L = E + A N^-alpha + B D^-beta, fitted through all runs",
    "published law": "Brüel Gabrielsson 2026, fitted to budgets of 1e15 to 1e19 FLOPs; here it is extrapolated",
    "set_loss": "−log of the predicted probability of each item of the next basket, mean over items, in nats",
    "recall@10, ndcg@10": "share of the next basket in the top ten; the same, with higher ranks counting more",
}
AGREEMENT = (
    "Spearman's rank correlation of two metrics over the runs of a budget, with its 95 % interval. A loss falls where rankings "
    "improve, so −1 between the two is agreement."
)


@dataclass
class Sheet:
    """The drawings of a page so far, by the names of their files."""

    drawings: dict[str, Markup] = field(default_factory=dict)

    def figure(self, name: str, title: str, draw: Draw, num_rows: int | None = None) -> Figure:
        """Draw, and keep the drawing under a name of its own. What it means is said once for its group."""
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        drawn = figure(plain, title, "", draw, num_rows)
        self.drawings[plain] = drawn.drawing
        return drawn


@dataclass(frozen=True, slots=True)
class Group:
    """Drawings and tables of one kind, with a sentence on what they mean."""

    about: str
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    matrices: Sequence[Matrix] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """What one kind of sweep says on one corpus."""

    title: str
    said: Sequence[str]  # the results in sentences, the most important one first
    groups: Sequence[Group]
    notes: Sequence[str]


def laws_page(runs: Sequence[Run], title: str, corpus: str | None = None) -> tuple[str, dict[str, Markup]]:
    """The whole page, and its drawings. With `corpus` only runs on it; else every corpus of the ledger on one page."""
    sheet = Sheet()
    shown = [run for run in runs if corpus in (None, run.corpus)]
    corpora = list(dict.fromkeys(run.corpus for run in shown))
    sections = [isoflop_section(sheet, chosen) for name in corpora if (chosen := usable(shown, name, SWEEP))]
    if shares := [chosen for name in corpora if (chosen := usable(shown, name, "share"))]:
        sections.append(share_section(sheet, shares))
    for name in corpora:
        for sweep, write in (("negatives", negatives_section), ("batch", batch_section), ("drift", drift_section)):
            if chosen := usable(shown, name, sweep):
                sections.append(write(sheet, chosen))
    content = {"counted": _counted(shown), "verdict": verdict(sections), "sections": sections, "meanings": MEANINGS}
    return page.render(TEMPLATE, title, content), sheet.drawings


def verdict(sections: Sequence[Section]) -> Verdict:
    """The first result of every section."""
    said = [f"{section.title}. {section.said[0]}" for section in sections if section.said]
    if not said:
        return Verdict("undecided", "These runs give no law", ["The notes of each section say what to run next."])
    return Verdict("", "What these runs say", said)


def usable(runs: Sequence[Run], corpus: str, sweep: str) -> Chosen | None:
    """The runs of a sweep on a corpus; None if a fit would take none of them."""
    if any(run.corpus == corpus and run.sweep == sweep and run.outcome == "done" and not run.excluded for run in runs):
        return choose(runs, corpus, sweep)
    return None


def isoflop_section(sheet: Sheet, chosen: Chosen) -> Section:
    """Valleys of every metric, frontiers, the expected metric, and whether the metrics agree."""
    known, name = metrics_of(chosen.runs), chosen.corpus
    fits = [fit_metric(chosen.runs, metric) for metric in [name for name in USUAL if name in known] or known[:1]]
    charts = [
        sheet.figure(
            f"valley-{name}-{fit.metric}",
            fit.metric,
            lambda axes, fit=fit: figures.valleys(axes, fit.metric, fit.valleys.curves, "parameters"),  # type: ignore[misc]
        )
        for fit in fits
    ]
    frontiers = [
        sheet.figure(f"frontier-{name}-{what}", title, _frontier(fits[0], what))
        for what, title in (("parameters", "N*: parameters of the best model"), ("events", "D*: events it reads"))
        if fits[0].valleys.optima()
    ]
    futures = [
        sheet.figure(f"expected-{name}-{fit.metric}", f"{fit.metric} of the best model", _expected(fit))
        for fit in fits
        if fit.fitted
    ]
    optima = optima_table(fits[0])
    agreed = agreements(sheet.figure, name, chosen.runs, known)
    groups = [
        Group(
            "A point is a run. At each budget a parabola in log N goes through the runs; a star is its bottom, and the bar "
            "through it the 95 % interval. Dotted curves have no bottom that the runs can tell.",
            charts,
        ),
        Group(
            "Stars: the bottoms, with intervals. The published law was fitted to budgets of 1e15 to 1e19 FLOPs, so here it is "
            "extrapolated. The surface is L = E + A N^-alpha + B D^-beta through all runs.",
            frontiers,
            [*([optima] if optima else []), *summary_tables(fits)],
        ),
        Group("Points: the best run of each budget. Band: 95 % interval for one further run of the best size.", futures),
        Group(AGREEMENT, agreed.figures, (), agreed.matrices),
    ]
    notes = [chosen.sentence(), *(problem for fit in fits for problem in _named(fit))]
    return _section(f"The best size for a budget: {name}", [headline(fits[0])], groups, notes)


def headline(fit: MetricFit) -> str:
    """The exponents of the first metric, beside the published ones."""
    laws = fit.valleys.parameters_law, fit.valleys.events_law
    if laws[0] is None or laws[1] is None:
        return f"No law: {fit.problems[-1]}."
    said = f"By {fit.metric}, N* grows as C^{laws[0].exponent} and D* as C^{laws[1].exponent} (95 % intervals)."
    return f"{said} Published: C^0.617 and C^0.383."


def share_section(sheet: Sheet, corpora: Sequence[Chosen]) -> Section:
    """The embedder's share on every corpus that has such runs."""
    charts, rows, problems, said = [], [], [chosen.sentence() for chosen in corpora], []
    for chosen in corpora:
        for metric in _shown(chosen):
            curves = share_curves(chosen.runs, metric)
            title = f"{metric}, {chosen.corpus}"
            if any(curve.valley for curve in curves):
                charts.append(sheet.figure(f"share-{chosen.corpus}-{metric}", title, _banded(metric, curves, "embedder's share")))
            problems += [f"{title}: {curve.problem}" for curve in curves]
            if metric == _shown(chosen)[0]:
                rows += [(f"{chosen.corpus}, {figures.budget(c.flops)}", _in_percent(c.found.optimum)) for c in curves if c.found]
    if rows:
        first = _shown(corpora[0])[0]
        said = [f"By {first} the best share is {'; '.join(f'{within.value:.2g} % on {label}' for label, within in rows)} FLOPs."]
        draw = figures.whisker_rows(rows, "embedder's part of all parameters (%)")
        charts.append(sheet.figure("share-optima", f"best share by {first}, with 95 % intervals", draw, len(rows)))
    about = (
        f"Shaded: shares whose difference to the best one is less than the noise of a run. The published optimum is "
        f"{percent(0.02)}, flat between {percent(0.02)} and {percent(0.06)}."
    )
    return _section("The embedder's share", said, [Group(about, charts)], problems)


def negatives_section(sheet: Sheet, chosen: Chosen) -> Section:
    """Curves over K for each way of drawing negatives, and whether loss and ranking agree over these runs."""
    charts, problems = [], [chosen.sentence()]
    for metric in _shown(chosen):
        for number, (way, curves) in enumerate(negatives_curves(chosen.runs, metric).items()):
            name = f"negatives-{chosen.corpus}-{metric}-{number}"
            if any(curve.valley for curve in curves):
                charts.append(sheet.figure(name, f"{metric}, {way}", _banded(metric, curves, "negatives K (a step)")))
            problems += [f"{metric}, {way}: {curve.problem}" for curve in curves]
    agreed = agreements(sheet.figure, f"{chosen.corpus}-negatives", chosen.runs, metrics_of(chosen.runs))
    groups = [
        Group("A point is a run; what the size of its model adds is taken out.", charts),
        Group(AGREEMENT, agreed.figures, (), agreed.matrices),
    ]
    return _section(f"Negatives after freezing: {chosen.corpus}", [], groups, problems)


def batch_section(sheet: Sheet, chosen: Chosen) -> Section:
    """The critical batch for each metric."""
    charts, problems, how, said = [], [chosen.sentence()], "", []
    for metric in [name for name in USUAL if name in metrics_of(chosen.runs)]:
        try:
            found = knees(chosen.runs, metric)
        except ValueError as error:
            problems.append(f"{metric}: {error}")
            continue
        for one in found:
            how = one.how
            at = f"{metric}, {figures.budget(one.flops)} FLOPs"
            name = f"batch-{chosen.corpus}-{metric}-{figures.budget(one.flops)}"
            title = at if one.problem else f"{at}: knee at {counted(one.batch)}"
            charts.append(sheet.figure(name, title, lambda axes, one=one: figures.knee(axes, one)))  # type: ignore[misc]
            problems.append(one.problem)
            if not one.problem:
                said.append(f"By {metric} half of the events are wasted at a batch of {counted(one.batch)} queries.")
    meaning = (
        "events to reach a loss that all batches reach" if how == TO_TARGET else "the metric after the same number of events"
    )
    about = f"Shown: {meaning}. The knee is the batch at which half of the events are wasted; the band is its 95 % interval."
    return _section(f"The critical batch: {chosen.corpus}", said, [Group(about, charts)], problems)


def drift_section(sheet: Sheet, chosen: Chosen) -> Section:
    """How models age, and whether larger ones age faster."""
    charts, problems, said = [], [chosen.sentence()], []
    for metric in aged_metrics(chosen.runs):
        try:
            found = fit_aging(chosen.runs, metric)
        except ValueError as error:
            problems.append(f"{metric}: {error}")
            continue
        name = f"aging-{chosen.corpus}-{metric}"
        charts.append(sheet.figure(name, metric, lambda axes, found=found: figures.aging(axes, found)))  # type: ignore[misc]
        sign = 1 if as_loss(metric, 1.0) else -1
        faster = f"; ten times the parameters add {_signed(found.by_decade, sign)}" if found.by_decade else ""
        said.append(f"{metric} changes by {_signed(found.rate, sign)} a {found.unit}{faster}.")
    about = (
        "Models whose training data end at different times, measured in the same periods. What a period adds for every model is "
        "taken out. Intervals: 95 %, errors clustered by run."
    )
    return _section(f"How a frozen model ages: {chosen.corpus}", said, [Group(about, charts)], problems)


def _frontier(fit: MetricFit, what: str) -> Callable[[Axes], None]:
    optima = fit.valleys.optima()
    budgets = np.geomspace(fit.points.flops_R.min(), fit.points.flops_R.max(), FRONTIER)
    plans = [fitted_law(float(flops)) for flops in budgets]
    published = np.array([budgets, [plan.parameters if what == "parameters" else plan.events for plan in plans]])
    surface = np.empty(0)
    if fit.fitted:
        place = 0 if what == "parameters" else 1
        surface = np.array([budgets, [optimum(fit.points, fit.fitted.law, float(flops))[place] for flops in budgets]])
    law = fit.valleys.parameters_law if what == "parameters" else fit.valleys.events_law
    return lambda axes: figures.frontier(axes, optima, law, what, published, surface)


def _expected(fit: MetricFit) -> Callable[[Axes], None]:
    curve = fit.law().curve
    return lambda axes: figures.expected(axes, fit.metric, curve, fit.points.flops_R, fit.points.loss_R)


def _banded(metric: str, curves: Sequence[Curve], noun: str) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        figures.band(axes, curves)
        figures.valleys(axes, metric, curves, noun)

    return draw


def _shown(chosen: Chosen) -> list[str]:
    known = metrics_of(chosen.runs)
    return [name for name in SHOWN if name in known] or known[:1]


def _named(fit: MetricFit) -> list[str]:
    return [f"{fit.metric}: {problem}" for problem in fit.problems]


def _in_percent(within: Interval) -> Interval:
    return Interval(*(None if end is None else 100 * end for end in (within.value, within.low, within.high)))  # type: ignore[arg-type]


def _signed(within: Interval, sign: int) -> str:
    low, high = sorted(sign * (end if end is not None else np.inf) for end in (within.low, within.high))
    return f"{sign * within.value:+.2g} [{low:+.2g}, {high:+.2g}]".replace("-", "−")


def _section(title: str, said: Sequence[str], groups: Sequence[Group], notes: Sequence[str]) -> Section:
    """A section of what there is."""
    there = [group for group in groups if group.figures or group.tables or group.matrices]
    return Section(title, said, there, [note for note in dict.fromkeys(notes) if note])


def _counted(runs: Sequence[Run]) -> str:
    hours, events = sum(run.seconds for run in runs) / 3600, sum(run.events for run in runs)
    return f"{len(runs)} runs, {hours:.1f} hours of computing, {short(events)} events read"
