"""The model beside the counting baselines: tables and figures that the page of a run and that of an evaluation share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from training.evaluation.metrics import BATCH_LOCAL_WARNING, CUTOFFS, SLICES, gain
from training.report.charts import Curve, chart
from training.report.verdict import Metrics, Rankers, counters_of, improvement, known, tiles, verdict
from twotower.metrics.names import BESIDE, HEADLINE
from twotower.report.charts import Whisker, dots, whiskers
from twotower.report.numbers import metric, signed_spread, spread, words
from twotower.report.parts import Cell, Figure, Table, Tile, Verdict
from twotower.report.svg import figure

LABELS = HEADLINE | BESIDE | {"repeat_recall@10": "repeat R@10"}
MEANINGS = {
    "R@10": "share of the next basket's items that are in the top ten, mean over baskets",
    "NDCG@10": "like R@10, but higher ranks count more: the sum of 1 / log2(rank + 1) over its best possible value",
    "MRR@10": "one over the rank of the first right item, 0 if it is not in the top ten",
    "HR@10": "share of baskets with at least one right item in the top ten",
    "unseen R@10": "R@10 of items that the user never had before, ranked among all such items",
    "repeat, explore": "answers that the user had before, or never had",
    "warm, cold": "answers with events in training, or without any",
    "set loss": "−log of the predicted probability of each item of the basket, mean over items, in nats; perplexity is e to it",
    "entropy": "entropy of the predicted distribution, in nats: the higher, the less certain is the model",
    "coverage@10": "share of the catalogue that appears in at least one top ten",
    "Gini@10": "inequality of how often items appear in the top ten: 0 if all equally often, near 1 if always the same ones",
    "debiased R@10": "R@10 with every item weighted by one over its training events, so that best-sellers count little",
    "R@10 by user": "R@10, as a mean over users instead of baskets",
    "batch-local": f"candidates are only the answers of 64 queries; {BATCH_LOCAL_WARNING}",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the pages say about a model on the test part."""

    verdict: Verdict
    tiles: Sequence[Tile]
    gains: Sequence[Figure]
    headline: Table
    recalls: Sequence[Figure]
    kinds: Table


def compared(rankers: Rankers, candidates: str) -> Comparison:
    """The verdict and all that it stands on."""
    return Comparison(
        verdict(rankers),
        tiles(rankers),
        gain_figures(rankers, HEADLINE),
        headline_table(rankers, candidates),
        [kinds_figure(rankers), cutoffs_figure(rankers)],
        kinds_table(rankers),
    )


def gain_figures(rankers: Rankers, labels: Mapping[str, str]) -> list[Figure]:
    """For each baseline the intervals of the model's gain over it, as shares of its value, so that metrics share an axis."""
    drawn = []
    for other in counters_of(rankers):
        rows = []
        for name, label in labels.items():
            found, base = gain(rankers["model"], other, name), rankers[other].get(name)
            if found and base:
                low, high = (100 * end for end in improvement(found, name, base))
                rows.append(Whisker(label, (low + high) / 2, low, high, found.says))
        if rows:
            about = (
                "Each bar is the paired 95 % interval of the difference, divided by the counter's value: right of the line the "
                "model is better, and a hollow point means that nothing is proven."
            )
            draw = whiskers(rows, f"better than {words(other)} by (%)", middle=0.0)
            drawn.append(figure(f"gain-{other}", f"The model against {words(other)}", about, draw, len(rows)))
    return drawn


def headline_table(rankers: Rankers, candidates: str) -> Table:
    """The headline metrics of every ranker, and the intervals of the model's differences."""
    model, counters = rankers["model"], counters_of(rankers)
    rows: list[list[str | Cell]] = [["model", *(with_interval(model, name) for name in HEADLINE)]]
    rows += [[words(name), *(with_interval(rankers[name], metric) for metric in HEADLINE)] for name in counters]
    rows += [[f"model − {words(name)}", *(gain_cell(model, name, metric) for metric in HEADLINE)] for name in counters]
    about = (
        f"Test part: {model['queries']:,.0f} queries of {model['users']:,.0f} users. Candidates: {candidates}; for unseen R@10 "
        "only items the user never had. Set loss in nats. Ranges are 95 % intervals, from resampling users."
    )
    return Table(about, ["", *HEADLINE.values()], rows)


def kinds_table(rankers: Rankers) -> Table:
    """Metrics by kind of answer."""
    model = rankers["model"]
    columns = ["", "answers", *(f"{words(name)} R@10" for name in rankers), "model NDCG@10", "model set loss"]
    rows = []
    for template, label in SLICES.items():
        recalls = [metric(metrics.get(template.format("recall@10"))) for metrics in rankers.values()]
        count = model.get(template.format("answers"))
        beside = [metric(model.get(template.format(name))) for name in ("ndcg@10", "set_loss")]
        rows.append([label, metric(count) if count is None else f"{count:,.0f}", *recalls, *beside])
    about = (
        "Each row is the part of the answers that its name says, on the same candidates. Training events are those before the "
        "split's validation_from."
    )
    return Table(about, columns, rows)


def kinds_figure(rankers: Rankers) -> Figure:
    """Recall of every ranker by kind of answer."""
    series = {
        words(name): [metrics.get(template.format("recall@10")) for template in SLICES] for name, metrics in rankers.items()
    }
    about = "Each row is a kind of answer; the further right, the more of them are in the top ten."
    return figure("kinds", "Recall by kind of answer", about, dots(list(SLICES.values()), series, "R@10"), len(SLICES) + 1)


def parts_table(quality: Mapping[str, Rankers]) -> Table:
    """The model on the three parts of the split."""
    of_part = {part: rankers["model"] for part, rankers in quality.items() if rankers}
    names = LABELS | {"perplexity": "perplexity"}
    rows = [[label, *(metric(metrics.get(name)) for metrics in of_part.values())] for name, label in names.items()]
    columns = ["", *(f"{part} ({metrics['queries']:,.0f})" for part, metrics in of_part.items())]
    about = (
        "A wide gap between train and test means that the model overfits. Candidates are the full catalogue, except in the "
        f"batch-local rows, where they are the answers of 64 queries: {BATCH_LOCAL_WARNING}. In brackets: queries."
    )
    return Table(about, columns, rows)


def further_table(rankers: Rankers) -> Table:
    """Further metrics of every ranker."""
    rows = [[label, *(metric(metrics.get(name)) for metrics in rankers.values())] for name, label in BESIDE.items()]
    return Table(f"Losses and entropy in nats. {BATCH_LOCAL_WARNING.capitalize()}.", ["", *map(words, rankers)], rows)


def cutoffs_figure(rankers: Rankers) -> Figure:
    """Recall of every ranker over the length of the list."""
    curves = [
        Curve(CUTOFFS, [metrics[f"recall@{k}"] for k in CUTOFFS], words(name), marked=True)
        for name, metrics in rankers.items()
        if all(known(metrics, f"recall@{k}") for k in CUTOFFS)
    ]
    about = "How much of the next basket a longer list holds; the lines of two rankers that meet are equal at that length."
    return chart("cutoffs", "Recall by length of the list", about, "R@K", curves, x="K, items shown", logarithmic=True)


def with_interval(metrics: Metrics, name: str) -> Cell:
    """A metric with its interval below."""
    low, high = (metrics.get(f"{name}.{end}") for end in ("low", "high"))
    return Cell(metric(metrics.get(name)), spread(low, high) if low is not None and high is not None else "")


def gain_cell(model: Metrics, other: str, name: str) -> Cell:
    """The interval of a difference in the colour of its conclusion, and the conclusion as a word."""
    found = gain(model, other, name)
    return Cell(found.says, signed_spread(found.low, found.high), found.says) if found else Cell(metric(None))
