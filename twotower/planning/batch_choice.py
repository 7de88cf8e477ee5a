"""How many queries a step scores: the knee of the served metric, the batch for throughput, and what the length of a run allows.

Brüel Gabrielsson 2026 (arXiv 2606.05257) fitted critical batches over 64 to 2,048 queries. Below the knee of a metric, twice the
batch needs almost half the steps; above it, hardly fewer.

B: queries of a step, which all stand after an event
"""

from typing import NamedTuple

from twotower.metrics.names import BESIDE, HEADLINE

THROUGHPUT_BATCH = 2048  # shipped in the paper on one node, above every knee
MIN_STEPS = 2000  # so that a warm-up of 5 % has 100 steps
SMALLEST_BATCH = 64  # the smallest of the paper's sweep
KNOWN_METRICS = (*HEADLINE, *BESIDE, "perplexity")


class Knee(NamedTuple):
    """Queries per step from which larger batches gain little."""

    low: int
    high: int


KNEES: dict[str, Knee | None] = {
    "set_loss": Knee(570, 570),
    "perplexity": Knee(570, 570),  # the exponential of the set loss
    "recall@10": Knee(570, 570),
    "ndcg@10": Knee(200, 275),
    "mrr@10": Knee(200, 275),
    "entropy": None,  # no plateau from 64 to 2,048
}  # metrics that are not here have no published knee


def check_metric(metric: str | None) -> str:
    """The metric that a plan is for; ValueError without one, because knees, negatives and even sizes follow from it."""
    if not metric:
        raise ValueError(f"a plan is for the metric that you serve, so name it first: {', '.join(KNOWN_METRICS)}")
    if metric not in KNOWN_METRICS:
        raise ValueError(f"there is no metric {metric!r}: choose {', '.join(KNOWN_METRICS)}")
    return metric


def knee_told(metric: str) -> str:
    """The knee of a metric in words."""
    if metric not in KNEES:
        return f"no knee of {metric} is published"
    if (knee := KNEES[metric]) is None:
        return f"{metric} has no knee between 64 and 2,048"
    between = f"{knee.low}" if knee.low == knee.high else f"{knee.low} to {knee.high}"
    return f"{metric} gains little above {between}"


def batch_for(events: float) -> int:
    """Queries per step: that of throughput, halved until the run has 2,000 steps."""
    batch = THROUGHPUT_BATCH
    while batch > SMALLEST_BATCH and events / batch < MIN_STEPS:
        batch //= 2
    return batch
