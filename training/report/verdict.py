"""The verdict on a model: does it beat the counting baselines, and for which answers?"""

from collections.abc import Mapping, Sequence

import numpy as np

from training.evaluation.metrics import Gain, gain
from twotower.metrics.names import HEADLINE, LOSSES
from twotower.report.numbers import metric, signed_spread, words
from twotower.report.parts import Kind, Tile, Verdict

Metrics = Mapping[str, float]
Rankers = Mapping[str, Metrics]  # the model first

DECIDING = ("recall@10", "ndcg@10")  # a model must be better in these to be worth serving


def counters_of(rankers: Rankers) -> list[str]:
    """The names of the counting baselines."""
    return [name for name in rankers if name != "model"]


def verdict(
    rankers: Rankers, labels: Mapping[str, str] = HEADLINE, deciding: Sequence[str] = DECIDING, noun: str = "counter"
) -> Verdict:
    """Is the model better than every baseline in the deciding metrics? `noun` is what the page calls a baseline."""
    model, counters = rankers["model"], counters_of(rankers)

    def not_won(outcome: str) -> str:
        found = {name: [labels[m] for m in deciding if outcome == says(model, name, m)] for name in counters}
        return "; ".join(f"{words(name)} ({', '.join(metrics)})" for name, metrics in found.items() if metrics)

    kind: Kind
    if lost := not_won("worse"):
        kind, sentence = "worse", f"Do not ship: a {noun} is better"
        because = f"The model is below {lost}: it has learned less than a {noun}."
    elif unknown := not_won("unknown"):
        kind, sentence = "undecided", f"Not compared with every {noun}"
        because = f"There is no interval of the difference to {unknown}; `twotower evaluate` computes them."
    elif undecided := not_won("undecided"):
        kind, sentence = "undecided", f"Not proven better than every {noun}"
        because = f"The interval of the difference includes zero against {undecided}."
    else:
        kind, sentence = "better", f"Better than every {noun}"
        because = f"On {' and '.join(labels[m] for m in deciding)} every paired 95 % interval lies above zero."
    return Verdict(kind, sentence, [because, *([said] if (said := exploring(model)) else [])])


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
    return (
        f"On items new to the user it is {sense} popularity: {ratio:.2f} times its recall, 95 % interval {low:.2f} to {high:.2f}."
    )


def tiles(rankers: Rankers, labels: Mapping[str, str] = HEADLINE) -> list[Tile]:
    """The headline metrics in large print, each compared with the best counting baseline."""
    model, shown = rankers["model"], []
    against = {"better": "better than", "worse": "worse than", "undecided": "undecided against", "unknown": "beside"}
    for name, label in labels.items():
        rivals = {c: rankers[c][name] for c in counters_of(rankers) if known(rankers[c], name)}
        if not rivals or not known(model, name):
            continue
        best = (min if name in LOSSES else max)(rivals, key=rivals.__getitem__)
        found = gain(model, best, name)
        about = f"{against[says(model, best, name)]} {words(best)}"
        within = signed_spread(found.low, found.high) if found else ""
        shown.append(Tile(label, metric(model[name]), about, within, found.says if found else ""))
    return shown


def improvement(found: Gain, name: str, counter: float) -> tuple[float, float]:
    """The interval of a difference as shares of the counter's value, so that better is above zero for a loss too."""
    ends = (found.low / counter, found.high / counter)
    return (-ends[1], -ends[0]) if name in LOSSES else ends


def known(metrics: Metrics, name: str) -> bool:
    """Whether a metric has a value. Older bundles have NaN where there is none."""
    return name in metrics and not np.isnan(metrics[name])
