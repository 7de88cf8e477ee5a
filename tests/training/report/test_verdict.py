"""The verdict follows from the paired intervals, and names what is unknown."""

import pytest

from training.evaluation.metrics import Gain
from training.report.verdict import Metrics, Rankers, improvement, tiles, verdict
from twotower.report.parts import Verdict

METRICS = {"queries": 100.0, "users": 20.0, "recall@10": 0.22, "ndcg@10": 0.23, "set_loss": 8.7}
COUNTER = {"queries": 100.0, "users": 20.0, "recall@10": 0.19, "ndcg@10": 0.2}


def rankers(recall: tuple[float, float] | None, ndcg: tuple[float, float] | None, **more: float) -> Rankers:
    """A model whose differences to one counter have these intervals."""
    model: Metrics = METRICS | more
    for name, interval in (("recall@10", recall), ("ndcg@10", ndcg)):
        if interval is not None:
            ends = {f"minus personal_frequency: {name}.low": interval[0], f"minus personal_frequency: {name}.high": interval[1]}
            model = {**model, **ends}
    return {"model": model, "personal_frequency": COUNTER}


@pytest.mark.parametrize(
    ("recall", "ndcg", "kind", "sentence"),
    [
        ((0.02, 0.03), (0.01, 0.02), "better", "Better than every counter"),
        ((0.02, 0.03), (-0.01, 0.02), "undecided", "includes zero against personal frequency (NDCG@10)"),
        ((-0.03, -0.01), (-0.01, 0.02), "worse", "below personal frequency (R@10)"),
        ((0.02, 0.03), None, "undecided", "no interval of the difference to personal frequency (NDCG@10)"),
    ],
)
def test_the_verdict_follows_from_the_intervals(
    recall: tuple[float, float], ndcg: tuple[float, float] | None, kind: str, sentence: str
) -> None:
    found = verdict(rankers(recall, ndcg))
    assert found.kind == kind
    assert sentence in " ".join([found.says, *found.because])


@pytest.mark.parametrize(
    ("low", "high", "sense"), [(1.1, 1.6, "better than"), (0.8, 1.2, "no different from"), (0.5, 0.9, "worse than")]
)
def test_exploring_is_told_as_a_ratio_to_popularity(low: float, high: float, sense: str) -> None:
    name = "over popularity: unseen_recall@10"
    found: Verdict = verdict(rankers((0.02, 0.03), (0.01, 0.02), **{name: 1.0, f"{name}.low": low, f"{name}.high": high}))
    assert f"it is {sense} popularity: 1.00 times its recall, 95 % interval {low:.2f} to {high:.2f}" in found.because[-1]


def test_the_best_counter_of_a_loss_is_the_lowest() -> None:
    shown = tiles({"model": METRICS, "near": {"set_loss": 8.8}, "far": {"set_loss": 9.9}})
    assert [tile.about for tile in shown] == ["beside near"]


def test_a_loss_that_falls_is_an_improvement() -> None:
    assert improvement(Gain(-1.0, -0.5, "better"), "set_loss", 10.0) == (0.05, 0.1)
    assert improvement(Gain(0.1, 0.2, "better"), "recall@10", 2.0) == (0.05, 0.1)
