"""The curves of a run's page: validation, training, and the correlation of metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from training.report.charts import LEGEND, Curve, Level, chart
from training.report.comparison import LABELS
from training.report.run_record import RunRecord
from training.report.verdict import known
from training.run.stopping import describe
from twotower.metrics.names import BESIDE, HEADLINE
from twotower.metrics.rank_correlation import spearman
from twotower.report.numbers import duration, words
from twotower.report.parts import Facts, Figure, Matrix, triangle

# Of each metric that is watched: the title of its chart, what it means, and the axis.
WATCHED = {
    "set_loss": ("Set loss", "How surprised the model is by the next basket: lower is better.", "set loss (nats)"),
    "ndcg@10": ("NDCG@10", "How high the next basket's items stand: higher is better.", "NDCG@10"),
    "recall@10": ("R@10", "Share of the next basket in the top ten: higher is better.", "R@10"),
    "unseen_recall@10": ("Unseen R@10", "The same for new items, ranked among items that the user never had.", "R@10"),
    "entropy": ("Entropy of the prediction", "How undecided the model is; it falls while the model commits itself.", "nats"),
    "coverage@10": ("Coverage@10", "Share of the catalogue that is in any top ten; near 0 all see the same.", "share"),
}
CORRELATED = (*HEADLINE, "repeat_recall@10", *BESIDE)
NUM_TO_CORRELATE = 4  # evaluations; a rank correlation over fewer means little


@dataclass(frozen=True, slots=True)
class Curves:
    """Some figures with what is to be known about all of them."""

    about: Sequence[str]
    legend: Facts
    figures: Sequence[Figure]


def validation_curves(run: RunRecord) -> Curves | None:
    """Metrics of a fixed sample of validation queries during the run, with the counting baselines as dashed lines."""
    lines = run.evaluations_of("model")
    if not lines:
        return None
    counters = {name: found[-1].metrics for name in ("popularity", "personal_frequency") if (found := run.evaluations_of(name))}
    drawn = []
    for number, (name, (title, about, unit)) in enumerate(WATCHED.items()):
        there = [line for line in lines if known(line.metrics, name)]
        if there:
            curve = Curve([line.step for line in there], [line.metrics[name] for line in there], marked=True)
            levels = [Level(metrics[name], words(counter)) for counter, metrics in counters.items() if known(metrics, name)]
            drawn.append(chart(f"validation{number}", title, about, unit, [curve], levels, boundaries(run)))
    took = sum(line.seconds for line in lines)
    about_all = (
        f"{lines[0].metrics['queries']:,.0f} queries of {lines[0].metrics['users']:,.0f} users, the same at every point. "
        f"Compare points with each other, not with the test part. Candidates: {lines[0].candidates}. "
        f"The evaluations took {duration(took)}."
    )
    return Curves([about_all, *(f"Early stopping: {describe(end)}" for end in run.journal.ends)], LEGEND, drawn)


def training_curves(run: RunRecord) -> Curves | None:
    """Losses, learning rate, gradient norm and speed of the run."""
    steps, stages = run.journal.steps, boundaries(run)
    if not steps:
        return None
    at = [line.step for line in steps]
    drawn = []
    for stage in sorted({line.stage for line in steps}):
        inside = [line for line in steps if line.stage == stage]
        curve = Curve([line.step for line in inside], [line.loss for line in inside], noisy=True)
        about = f"What the optimizer lowers, over {pool(run, stage)}."
        drawn.append(chart(f"loss{stage}", f"Loss of stage {stage}", about, "loss (nats)", [curve]))
    rates = Curve(at, [line.learning_rate for line in steps])
    drawn.append(chart("rate", "Learning rate", "How far each step goes.", "learning rate", [rates], boundaries=stages))
    normed = [line for line in steps if line.gradient_norm is not None]
    if normed:
        norms = Curve([line.step for line in normed], [line.gradient_norm or 0.0 for line in normed], noisy=True)
        about = "Before clipping: peaks that come back mean that the learning rate is too high."
        drawn.append(chart("norm", "Gradient norm", about, "norm", [norms], boundaries=stages))
    speed = Curve(at, [line.events_per_s for line in steps])
    about = "Mean since the stage began, with the time of evaluations."
    drawn.append(chart("speed", "Speed", about, "events per second", [speed], boundaries=stages))
    about_all = (
        "Losses over different candidates cannot be compared. Pale: measured; strong: running mean; dotted: start of stage 2."
    )
    return Curves([about_all], {}, drawn)


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


def agreement(run: RunRecord) -> Matrix | str:
    """Rank correlations of the metrics over the evaluations of this run, or why there are none."""
    lines = run.evaluations_of("model")
    names = [name for name in CORRELATED if lines and all(known(line.metrics, name) for line in lines)]
    if len(lines) < NUM_TO_CORRELATE:
        return f"{len(lines)} evaluations: {NUM_TO_CORRELATE} are needed for rank correlations."
    correlation = spearman(np.array([[line.metrics[name] for name in names] for line in lines]))
    about = (
        f"Spearman's rank correlation over {len(lines)} evaluations of the model on validation; columns are numbered as "
        "rows. A loss falls when rankings improve, so −1 between the two is agreement. The points of one run are not "
        "independent, so the values show no significance."
    )
    return triangle(about, [LABELS[name] for name in names], correlation.tolist())
