"""The verdict on a run's page: does the model beat the counting baselines, and for which answers?"""

from collections.abc import Sequence

import numpy as np

from training.evaluation.metrics import BATCH_LOCAL_WARNING, SLICES, gain
from twotower.metrics.names import BESIDE, HEADLINE, LOSSES
from twotower.report.page import Markup, element, joined, section, table, words

Metrics = dict[str, float]

DECIDING = ("recall@10", "ndcg@10")  # a model must be better in these to be worth serving
LABELS = HEADLINE | BESIDE | {"repeat_recall@10": "repeat R@10"}


def headline(test: dict[str, Metrics], candidates: str) -> Markup:
    """The verdict, and the headline metrics of the model and of the counting baselines."""
    model = test["model"]
    counters = [name for name in test if name != "model"]
    rows: list[list[object]] = [[element("b", "model"), *(with_interval(model, name) for name in HEADLINE)]]
    rows += [[words(name), *(shown(test[name], metric) for metric in HEADLINE)] for name in counters]
    rows += [[f"model − {words(name)}", *(gain_cell(model, name, metric) for metric in HEADLINE)] for name in counters]
    caption = (
        f"Test part: {model['queries']:,.0f} queries of {model['users']:,.0f} users. Candidates: "
        f"{candidates}; for unseen R@10 only items the user never had. Set loss in nats. "
        "Ranges are 95 % intervals, from resampling users."
    )
    return joined(
        [
            verdict(model, counters),
            tiles(test, counters),
            section("Against the counters", table(caption, ["", *HEADLINE.values()], rows)),
        ]
    )


def verdict(model: Metrics, counters: Sequence[str]) -> Markup:
    """One sentence: is the model better than every counting baseline in the deciding metrics?"""
    lost, unknown, open_ = (not_won(model, counters, outcome) for outcome in ("worse", "unknown", "undecided"))
    if lost:
        kind, sentence = "worse", "Do not ship: a counter is better"
        because = f"The model is below {lost}: it has learned less than a counter."
    elif unknown:
        kind, sentence = "undecided", "Not compared with every counter"
        because = f"The bundle holds no interval of the difference to {unknown}; `twotower evaluate` computes them."
    elif open_:
        kind, sentence = "undecided", "Not proven better than every counter"
        because = f"The interval of the difference includes zero against {open_}."
    else:
        kind, sentence = "better", "Better than every counter"
        because = f"On {' and '.join(HEADLINE[m] for m in DECIDING)} every paired 95 % interval lies above zero."
    return element("div", element("strong", sentence), element("p", because, " ", exploring(model)), kind=f"verdict {kind}")


def not_won(model: Metrics, counters: Sequence[str], outcome: str) -> str:
    """The baselines with this outcome, and the deciding metrics in which they have it."""
    found = {name: [HEADLINE[m] for m in DECIDING if outcome == says(model, name, m)] for name in counters}
    return "; ".join(f"{words(name)} ({', '.join(metrics)})" for name, metrics in found.items() if metrics)


def says(model: Metrics, other: str, name: str) -> str:
    """The conclusion from the difference: better, worse, undecided, or unknown."""
    found = gain(model, other, name)
    return found.says if found else "unknown"


def exploring(model: Metrics) -> str:
    """One sentence on items that are new to the user, which counting baselines cannot rank."""
    ratio, low, high = (model.get(f"over popularity: unseen_recall@10{end}") for end in ("", ".low", ".high"))
    if ratio is None or low is None or high is None:
        return ""
    sense = "better than" if low > 1 else "worse than" if high < 1 else "no different from"
    return f"On items new to the user it is {sense} popularity: {ratio:.2f}x its recall, 95 % interval {low:.2f} to {high:.2f}."


def tiles(test: dict[str, Metrics], counters: Sequence[str]) -> Markup:
    """The headline metrics in large print, each compared with the best counting baseline."""
    cells = []
    for name, label in HEADLINE.items():
        rivals = {c: test[c][name] for c in counters if known(test[c], name)}
        if not rivals or not known(test["model"], name):
            continue
        best = (min if name in LOSSES else max)(rivals, key=rivals.__getitem__)
        found = gain(test["model"], best, name)
        outcome = says(test["model"], best, name)
        interval = element("span", f"{found.low:+.4f} to {found.high:+.4f}", kind=outcome) if found else ""
        against = {"better": "better than", "worse": "worse than", "undecided": "undecided against", "unknown": "beside"}[outcome]
        value = element("b", shown(test["model"], name))
        cells.append(
            element("div", element("div", label), value, interval, element("div", f"{against} {words(best)}"), kind="tile")
        )
    return element("div", *cells, kind="tiles")


def kinds_of_answers(test: dict[str, Metrics]) -> Markup:
    """Metrics by kind of answer."""
    columns = ["", "answers", *(f"{words(name)} R@10" for name in test), "model NDCG@10", "model set loss"]
    rows: list[list[object]] = []
    for template, label in SLICES.items():
        model = test["model"]
        recalls = [shown(metrics, template.format("recall@10")) for metrics in test.values()]
        count = f"{model[answers]:,.0f}" if (answers := template.format("answers")) in model else "-"
        rows.append([label, count, *recalls, shown(model, template.format("ndcg@10")), shown(model, template.format("set_loss"))])
    caption = "Test part, same candidates. Training events are those before the split's validation_from."
    return section("By kind of answer", table(caption, columns, rows))


def parts(quality: dict[str, dict[str, Metrics]]) -> Markup:
    """The model on the three parts of the split. A wide gap between train and test means that the model overfits."""
    of_part = {part: rankers["model"] for part, rankers in quality.items() if rankers}
    names = LABELS | {"perplexity": "perplexity"}
    rows = [[label, *(shown(metrics, name) for metrics in of_part.values())] for name, label in names.items()]
    columns = ["", *(f"{part} ({metrics['queries']:,.0f})" for part, metrics in of_part.items())]
    caption = (
        "Full catalogue, except for the batch-local rows, whose candidates are the answers of 64 queries: "
        f"{BATCH_LOCAL_WARNING}. In brackets: queries."
    )
    return section("The model on every part of the split", table(caption, columns, rows))


def known(metrics: Metrics, name: str) -> bool:
    """Whether a metric has a value. Older bundles have NaN where there is none."""
    return name in metrics and not np.isnan(metrics[name])


def shown(metrics: Metrics, name: str) -> str:
    """A metric with four decimals, or a dash if it has no value."""
    if not known(metrics, name):
        return "-"
    return f"{metrics[name]:.4f}" if abs(metrics[name]) < 100 else f"{metrics[name]:,.0f}"


def with_interval(metrics: Metrics, name: str) -> Markup:
    """A metric with its interval below."""
    low, high = (metrics.get(f"{name}.{end}") for end in ("low", "high"))
    interval = element("small", f"{low:.4f} to {high:.4f}") if low is not None and high is not None else Markup("")
    return joined([element("b", shown(metrics, name)), interval])


def gain_cell(model: Metrics, other: str, name: str) -> Markup:
    """The interval of a difference in the colour of its conclusion, and the conclusion as a word."""
    if (found := gain(model, other, name)) is None:
        return Markup("-")
    return joined([element("span", f"{found.low:+.4f} to {found.high:+.4f}", kind=found.says), element("small", found.says)])
