"""The HTML page of an evaluation: a bundle under one of the protocols, beside the counting baselines."""

from collections.abc import Mapping
from pathlib import Path

from training.evaluation.cold_start import SHOWN
from training.report.comparison import (
    MEANINGS,
    compared,
    further_table,
    gain_cell,
    gain_figures,
    with_interval,
)
from training.report.verdict import Rankers, counters_of, tiles, verdict
from twotower.report import page
from twotower.report.numbers import words
from twotower.report.parts import Cell, Table

TEMPLATE, COLD_TEMPLATE = (Path(__file__).with_name(name) for name in ("evaluation.html", "cold_start.html"))
COLD = {name: label for name, label in SHOWN.items() if name.startswith("cold_") and "recall" in name}  # with intervals
DECIDING_COLD = ("cold_recall@10",)
COLD_MEANINGS = {
    "cold": "items that were hidden from training, and are launched on the first day of the test part",
    "warm": "items with events in training",
    "cold R@10": "share of a basket's cold items that are in the top ten, mean over the baskets that hold such items",
    "cold unseen R@10": "the same for cold items that the user never had, ranked among all such items",
    "cold median rank": "half of the cold answers stand at this rank or above, in the whole catalogue",
    "cold share of top 10": "share of the places of all top tens that cold items take",
    "content knn": "ranks items by the likeness of their content to the user's last items; nothing in it is learned",
}


def render(bundle: str, protocol: str, candidates: str, rankers: Rankers, facts: Mapping[str, str]) -> str:
    """The page of a protocol that ranks held-out events."""
    content = {
        "bundle": bundle,
        "protocol": protocol,
        "candidates": candidates,
        "compared": compared(rankers, candidates),
        "further": further_table(rankers),
        "facts": facts,
        "meanings": MEANINGS,
    }
    return page.render(TEMPLATE, f"{bundle} - {protocol} evaluation", content)


def render_cold(bundle: str, rankers: Rankers, facts: Mapping[str, str]) -> str:
    """The page of the planted cold-start protocol."""
    content = {
        "bundle": bundle,
        "verdict": verdict(rankers, SHOWN, DECIDING_COLD, noun="baseline"),
        "tiles": tiles(rankers, COLD),
        "gains": gain_figures(rankers, COLD),
        "table": cold_table(rankers),
        "facts": facts,
        "meanings": COLD_MEANINGS,
    }
    return page.render(COLD_TEMPLATE, f"{bundle} - cold-start evaluation", content)


def cold_table(rankers: Rankers) -> Table:
    """Every metric of the protocol, and the intervals of the model's differences."""
    model, counters = rankers["model"], counters_of(rankers)
    rows: list[list[str | Cell]] = []
    for name, label in SHOWN.items():
        gains = [gain_cell(model, other, name) for other in counters]
        rows.append([label, *(with_interval(metrics, name) for metrics in rankers.values()), *gains])
    columns = ["", *map(words, rankers), *(f"model − {words(other)}" for other in counters)]
    about = (
        f"Test part: {model['queries']:,.0f} baskets with {model['cold_answers']:,.0f} answers that were hidden from training. "
        "Candidates: full catalogue. Ranges are 95 % intervals, from resampling users."
    )
    return Table(about, columns, rows)
