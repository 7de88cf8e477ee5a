"""The batch is that of throughput as long as the run has enough steps; what the metric gains from it is said."""

import pytest

from twotower.planning.batch_choice import KNEES, KNOWN_METRICS, batch_for, check_metric, knee_told


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("set_loss", "set_loss gains little above 570"),
        ("recall@10", "recall@10 gains little above 570"),
        ("ndcg@10", "ndcg@10 gains little above 200 to 275"),
        ("entropy", "entropy has no knee between 64 and 2,048"),
        ("coverage@10", "no knee of coverage@10 is published"),
    ],
)
def test_the_knee_is_that_of_the_metric(metric: str, words: str) -> None:
    assert knee_told(metric) == words


def test_a_long_run_takes_the_batch_of_throughput_and_a_short_one_keeps_two_thousand_steps() -> None:
    assert batch_for(4.28e9) == 2048
    assert batch_for(2048 * 2000) == 2048
    assert batch_for(1e6) == 256
    assert batch_for(1000) == 64, "the smallest of the published sweep"


@pytest.mark.parametrize("none", [None, ""])
def test_nothing_is_planned_without_a_metric(none: str | None) -> None:
    with pytest.raises(ValueError, match=r"name it first: recall@10, ndcg@10"):
        check_metric(none)


def test_an_unknown_metric_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no metric 'ndcg': choose recall@10"):
        check_metric("ndcg")


def test_every_metric_with_a_knee_is_one_that_evaluation_computes() -> None:
    assert set(KNEES) <= set(KNOWN_METRICS)
