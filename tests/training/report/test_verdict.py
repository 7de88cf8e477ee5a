"""The verdict follows from the paired intervals, and names what is unknown."""

import pytest

from training.report.verdict import headline, kinds_of_answers, parts

METRICS = {"queries": 100.0, "users": 20.0, "recall@10": 0.22, "ndcg@10": 0.23, "set_loss": 8.7}
COUNTER = {"queries": 100.0, "users": 20.0, "recall@10": 0.19, "ndcg@10": 0.2}


def verdict_of(recall: tuple[float, float] | None, ndcg: tuple[float, float] | None, **more: float) -> str:
    """The page's part on a model whose differences to one counter have these intervals."""
    model = METRICS | more
    for name, interval in (("recall@10", recall), ("ndcg@10", ndcg)):
        if interval is not None:
            model |= {f"minus personal_frequency: {name}.low": interval[0], f"minus personal_frequency: {name}.high": interval[1]}
    return headline({"model": model, "personal_frequency": COUNTER}, "full catalogue, 50 items, past items kept")


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
    shown = verdict_of(recall, ndcg)
    assert f'class="verdict {kind}"' in shown
    assert sentence in shown


def test_the_candidates_are_named() -> None:
    assert "Candidates: full catalogue, 50 items, past items kept" in verdict_of(None, None)


def test_a_figure_that_is_not_there_is_a_dash() -> None:
    assert "<tr><th>personal frequency</th><td>0.1900</td><td>0.2000</td><td>-</td>" in verdict_of(None, None)


@pytest.mark.parametrize(
    ("low", "high", "sense"), [(1.1, 1.6, "better than"), (0.8, 1.2, "no different from"), (0.5, 0.9, "worse than")]
)
def test_exploring_is_told_as_a_ratio_to_popularity(low: float, high: float, sense: str) -> None:
    name = "over popularity: unseen_recall@10"
    shown = verdict_of((0.02, 0.03), (0.01, 0.02), **{name: 1.0, f"{name}.low": low, f"{name}.high": high})
    assert f"it is {sense} popularity: 1.00x its recall, 95 % interval {low:.2f} to {high:.2f}" in shown


def test_the_best_counter_of_a_loss_is_the_lowest() -> None:
    test = {"model": METRICS, "near": {"set_loss": 8.8}, "far": {"set_loss": 9.9}}
    assert "beside near" in headline(test, "all")


def test_every_kind_of_answer_has_its_row() -> None:
    model = METRICS | {"repeat_answers": 1200.0, "repeat_recall@10": 0.4, "repeat_ndcg@10": 0.3, "repeat_set_loss": 6.0}
    shown = kinds_of_answers({"model": model, "popularity": {"repeat_recall@10": 0.1}})
    row = "<td>1,200</td><td>0.4000</td><td>0.1000</td><td>0.3000</td><td>6.0000</td>"
    assert f"<th>repeat: the user had it</th>{row}" in shown
    assert shown.count("events in training") == 5


def test_parts_without_queries_are_left_out_and_batch_local_figures_carry_their_warning() -> None:
    shown = parts({"train": {"model": METRICS}, "validation": {}, "test": {"model": METRICS | {"batch_local_loss": 4.0}}})
    assert "<th></th><th>train (100)</th><th>test (100)</th>" in shown
    assert "<th>batch-local loss</th><td>-</td><td>4.0000</td>" in shown
    assert "poor stand-in for full-catalogue loss" in shown


def test_the_nan_of_an_older_bundle_is_a_dash() -> None:
    assert "<th>entropy</th><td>-</td>" in parts({"test": {"model": METRICS | {"entropy": float("nan")}}})
