"""The charts of a run's page: training curves, validation curves, and the correlation of metrics."""

from itertools import pairwise

import numpy as np

from training.report.charts import Curve, Level, chart
from training.report.run_record import RunRecord
from training.report.verdict import LABELS, known
from training.run.stopping import describe
from twotower.metrics.names import BESIDE, HEADLINE
from twotower.metrics.rank_correlation import spearman
from twotower.report.page import Markup, correlation_cell, duration, element, figure, section, table, words

WATCHED = {
    "set_loss": "set loss, nats (lower is better)",
    "ndcg@10": "NDCG@10",
    "recall@10": "R@10",
    "unseen_recall@10": "unseen R@10: new items, ranked among items the user never had",
    "entropy": "entropy of the prediction, nats",
    "coverage@10": "coverage@10: share of the catalogue shown",
}
CORRELATED = (*HEADLINE, "repeat_recall@10", *BESIDE)
NUM_TO_CORRELATE = 4  # evaluations; a rank correlation over fewer means little


def validation_curves(run: RunRecord) -> Markup:
    """Metrics of a fixed sample of validation queries during the run, with the counting baselines as dashed lines."""
    lines = run.evaluations_of("model")
    if not lines:
        return Markup("")
    counters = {name: found[-1].metrics for name in ("popularity", "personal_frequency") if (found := run.evaluations_of(name))}
    drawn = []
    for number, (name, label) in enumerate(WATCHED.items()):
        there = [line for line in lines if known(line.metrics, name)]
        if there:
            curve = Curve([line.step for line in there], [line.metrics[name] for line in there], marked=True)
            levels = [Level(metrics[name], words(counter)) for counter, metrics in counters.items() if known(metrics, name)]
            drawn.append(figure(label, chart(f"validation{number}", [curve], levels, boundaries(run))))
    took = sum(line.seconds for line in lines)
    about = (
        f"{lines[0].metrics['queries']:,.0f} queries of {lines[0].metrics['users']:,.0f} users, the same at every point. "
        f"Compare points with each other, not with the test part. Candidates: {lines[0].candidates}. "
        f"The evaluations took {duration(took)}."
    )
    legend = element(
        "div",
        element("span", "model", kind="model"),
        element("span", "popularity", kind="popularity"),
        element("span", "personal frequency", kind="personal"),
        kind="legend",
    )
    notes = [element("p", about, kind="faint"), *(element("p", f"Early stopping: {describe(end)}") for end in run.journal.ends)]
    return section("Validation during the run", *notes, legend, element("div", *drawn, kind="charts"))


def training_curves(run: RunRecord) -> Markup:
    """Losses, learning rate, gradient norm and speed of the run."""
    steps = run.journal.steps
    if not steps:
        return Markup("")
    at = [line.step for line in steps]
    drawn = []
    for stage in sorted({line.stage for line in steps}):
        inside = [line for line in steps if line.stage == stage]
        curve = Curve([line.step for line in inside], [line.loss for line in inside], noisy=True)
        drawn.append(figure(f"loss of stage {stage}, nats, over {pool(run, stage)}", chart(f"loss{stage}", [curve])))
    rates = Curve(at, [line.learning_rate for line in steps])
    drawn.append(figure("learning rate", chart("rate", [rates], boundaries=boundaries(run))))
    normed = [line for line in steps if line.gradient_norm is not None]
    if normed:
        norms = Curve([line.step for line in normed], [line.gradient_norm or 0.0 for line in normed], noisy=True)
        drawn.append(figure("gradient norm, before clipping", chart("norm", [norms], boundaries=boundaries(run))))
    speed = Curve(at, [line.events_per_s for line in steps])
    drawn.append(
        figure("events/s, mean since the stage began, including evaluations", chart("speed", [speed], boundaries=boundaries(run)))
    )
    about = "Losses over different candidates cannot be compared. Pale: measured; strong: running mean; dotted: start of stage 2."
    return section("Training", element("p", about, kind="faint"), element("div", *drawn, kind="charts"))


def pool(run: RunRecord, stage: int) -> str:
    """Description of the candidates of a stage's loss."""
    stages = run.noted.get("config", {}).get("stages", [])
    if stage > len(stages):
        return "the stage's candidates"
    drawn, how = (stages[stage - 1].get(name) for name in ("num_negatives", "negatives"))
    return "the full catalogue" if drawn is None else f"{drawn:,} {how} negatives and the right answers"


def boundaries(run: RunRecord) -> list[float]:
    """The steps after which a new stage begins."""
    steps = run.journal.steps
    return [float(before.step) for before, after in pairwise(steps) if after.stage != before.stage]


def agreement(run: RunRecord) -> Markup:
    """Rank correlations of the metrics over the evaluations of this run."""
    lines = run.evaluations_of("model")
    names = [name for name in CORRELATED if lines and all(known(line.metrics, name) for line in lines)]
    title = "Do the metrics agree?"
    if len(lines) < NUM_TO_CORRELATE:
        return section(
            title, element("p", f"{len(lines)} evaluations: {NUM_TO_CORRELATE} are needed for rank correlations.", kind="faint")
        )
    correlation = spearman(np.array([[line.metrics[name] for name in names] for line in lines]))
    rows = [
        [f"{place} {LABELS[name]}", *(correlation_cell(value) for value in correlation[place - 1, :place])]
        for place, name in enumerate(names, start=1)
    ]
    caption = (
        f"Spearman's rank correlation over {len(lines)} evaluations of the model on validation; columns are numbered as "
        "rows. A loss falls when rankings improve, so -1 between the two is agreement. The points of one run are not "
        "independent, so the values show no significance."
    )
    return section(title, element("div", table(caption, ["", *range(1, len(names) + 1)], rows), kind="matrix"))
