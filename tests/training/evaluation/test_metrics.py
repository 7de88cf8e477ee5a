"""Metrics equal values that were computed by hand."""

from dataclasses import replace

import numpy as np
import pytest

from training.evaluation.metrics import (
    SLICES,
    Rankings,
    batch_local,
    candidate_set,
    gain,
    gini,
    likelihood,
    ndcg,
    paired_differences,
    paired_ratio,
    point_metrics,
    slices,
    summarise,
)
from twotower.metrics.names import HEADLINE


def rankings() -> Rankings:
    """Two users. The first query ranks its two answers 1 and 11, the second its only answer 3."""
    return Rankings(
        user_Q=np.array([0, 1]),
        answer_query_A=np.array([0, 0, 1]),
        rank_A=np.array([1.0, 11.0, 3.0]),
        unseen_rank_A=np.array([1.0, 9.0, 3.0]),
        local_rank_A=np.array([1.0, 2.0, 12.0]),
        nll_A=np.array([1.0, 2.0, 3.0]),
        local_nll_A=np.array([0.5, 1.0, 1.5]),
        entropy_Q=np.array([0.5, 1.5]),
        past_A=np.array([True, False, False]),
        train_count_A=np.array([40, 0, 7]),
        top10_QK=np.array([[0, 1], [1, 2]]),
    )


def test_every_metric_by_hand() -> None:
    metrics = summarise(rankings(), num_items=30)
    assert metrics["recall@1"] == pytest.approx(0.25)
    assert metrics["recall@10"] == pytest.approx(0.75)
    assert metrics["recall@20"] == 1.0
    ideal = 1 + 1 / np.log2(3)
    assert metrics["ndcg@10"] == pytest.approx((1 / ideal + 1 / np.log2(4)) / 2)
    assert metrics["mrr@10"] == pytest.approx((1 + 1 / 3) / 2)
    assert metrics["hit_rate@10"] == 1.0
    assert metrics["set_loss"] == pytest.approx(2.0)
    assert metrics["perplexity"] == pytest.approx(np.exp(2))
    assert metrics["entropy"] == pytest.approx(1.0)
    assert metrics["coverage@10"] == pytest.approx(0.1)


def test_every_headline_metric_has_its_interval() -> None:
    metrics = summarise(rankings(), num_items=30)
    assert all(metrics[f"{name}.low"] <= metrics[name] <= metrics[f"{name}.high"] for name in HEADLINE)


def test_repeats_and_new_items_are_judged_apart() -> None:
    metrics = point_metrics(rankings(), num_items=30)
    assert (metrics["repeat_answers"], metrics["explore_answers"]) == (1, 2)
    assert (metrics["repeat_recall@10"], metrics["explore_recall@10"]) == (1.0, 0.5)
    assert metrics["explore_ndcg@10"] == pytest.approx((0 + 1 / np.log2(4)) / 2), "each query's ideal counts its new items alone"
    assert (metrics["repeat_mrr@10"], metrics["explore_mrr@10"]) == pytest.approx((1.0, 1 / 6))
    assert (metrics["repeat_hit_rate@10"], metrics["explore_hit_rate@10"]) == (1.0, 0.5)
    assert (metrics["repeat_set_loss"], metrics["explore_set_loss"]) == (1.0, 2.5)


def test_new_items_are_also_ranked_among_the_unseen() -> None:
    metrics = point_metrics(rankings(), num_items=30)
    assert metrics["unseen_recall@10"] == 1.0
    assert metrics["unseen_mrr@10"] == pytest.approx((1 / 9 + 1 / 3) / 2)
    assert "unseen_set_loss" not in metrics, "the softmax is over the whole catalogue"


def test_warm_cold_and_frequency_are_judged_apart() -> None:
    metrics = point_metrics(rankings(), num_items=30)
    assert (metrics["warm_recall@10"], metrics["cold_recall@10"]) == (1.0, 0.0)
    assert metrics["recall@10[train count 30+]"] == metrics["ndcg@10[train count 30+]"] == 1.0
    assert metrics["set_loss[train count 5-9]"] == 3.0
    assert metrics["answers[train count 1-4]"] == 0
    assert "recall@10[train count 1-4]" not in metrics, "there is nothing to take a mean of"


def test_every_answer_is_in_one_bucket_of_each_kind() -> None:
    parts = slices(rankings())
    assert list(parts) == list(SLICES)
    for kind in (["repeat_{}", "explore_{}"], ["warm_{}", "cold_{}"], [name for name in SLICES if "count" in name]):
        assert np.sum([parts[name][1] for name in kind], axis=0).tolist() == [1, 1, 1]


def test_a_user_with_many_queries_counts_as_one_in_the_mean_over_users() -> None:
    """Recall 1, 1 and 1 of the first user, 0 of the second."""
    busy = replace(
        rankings(),
        user_Q=np.array([0, 0, 1]),
        answer_query_A=np.array([0, 1, 2]),
        rank_A=np.array([1.0, 1.0, 11.0]),
        entropy_Q=np.zeros(3),
        top10_QK=np.array([[0], [0], [0]]),
    )
    metrics = point_metrics(busy, num_items=30)
    assert metrics["recall@10"] == pytest.approx(2 / 3)
    assert metrics["user_recall@10"] == metrics["user_ndcg@10"] == 0.5


def test_the_debiased_recall_weighs_by_one_over_the_training_frequency() -> None:
    """First query: found with weight 1/40, missed with weight 1 (never trained on counts as once). Second: found."""
    assert point_metrics(rankings(), num_items=30)["debiased_recall@10"] == pytest.approx((0.025 / 1.025 + 1) / 2)


@pytest.mark.parametrize(("exposure", "expected"), [([3, 3, 3, 3], 0.0), ([2, 2, 0, 0], 0.5), ([0, 0, 0, 8], 0.75)])
def test_gini_by_hand(exposure: list[int], expected: float) -> None:
    assert gini(np.array(exposure)) == pytest.approx(expected)


def test_gini_is_taken_over_the_whole_catalogue() -> None:
    """Exposure 1, 2, 1 and 27 items never shown."""
    exposure = np.concatenate([np.zeros(27, np.int64), [1, 1, 2]])
    assert point_metrics(rankings(), num_items=30)["gini@10"] == pytest.approx(gini(exposure))


def test_batch_local_candidates_are_the_answers_of_the_batch() -> None:
    """Items 0, 2 and 3 are answers; item 1, the best of the catalogue for both queries, is nobody's answer here."""
    scores = np.array([[2.0, 9.0, 1.0, 0.0], [1.0, 9.0, 3.0, 3.0]], np.float32)
    ranks, nll = batch_local(scores, [np.array([0, 3]), np.array([2])], has_probabilities=True)
    assert ranks.tolist() == [1.0, 3.0, 1.5]
    first, second = np.log(np.exp([2, 1, 0]).sum()), np.log(np.exp([1, 3, 3]).sum())
    np.testing.assert_allclose(nll, [first - 2, first - 0, second - 3], rtol=1e-6)


def test_batch_local_metrics_stand_beside_those_of_the_full_catalogue() -> None:
    metrics = point_metrics(rankings(), num_items=30)
    assert (metrics["batch_local_recall@10"], metrics["batch_local_loss"]) == (0.5, 1.0)


def test_a_ranker_without_probabilities_has_no_losses() -> None:
    nothing = np.full(3, np.nan)
    metrics = summarise(replace(rankings(), nll_A=nothing, local_nll_A=nothing, entropy_Q=nothing[:2]), num_items=30)
    assert not [name for name in metrics if "loss" in name or name in ("perplexity", "entropy")]


@pytest.mark.parametrize(("masked", "word"), [(False, "kept"), (True, "masked")])
def test_the_candidate_set_is_put_in_words(masked: bool, word: str) -> None:
    assert candidate_set(92_331, past_masked=masked) == f"full catalogue, 92,331 items, past items {word}"


def test_likelihood_of_a_known_distribution() -> None:
    log_partition, entropy = likelihood(np.log(np.array([1.0, 1.0, 2.0], np.float32)) + 50)
    assert log_partition == pytest.approx(50 + np.log(4), rel=1e-6)
    assert entropy == pytest.approx(1.5 * np.log(2), rel=1e-4)


def test_ndcg_of_a_perfect_list_is_one() -> None:
    perfect = np.array([1.0, 2.0, 1.0])
    np.testing.assert_allclose(ndcg(rankings(), perfect, 10, np.ones(3, bool)), 1.0)


def test_a_ratio_that_holds_for_every_user_has_no_spread() -> None:
    """Unpaired, numerator and denominator would be drawn apart and the interval would be wide."""
    theirs, users = np.array([0.1, 0.2, 0.4, np.nan]), np.array([0, 1, 2, 3])
    assert paired_ratio(1.5 * theirs, theirs, users) == pytest.approx((1.5, 1.5, 1.5))


def test_the_ratio_is_that_of_the_means_and_its_interval_that_of_the_users() -> None:
    """Each of two users alone gives 1 or 3; together (1 + 3) / (1 + 1) = 2."""
    ratio, low, high = paired_ratio(np.array([1.0, 3.0]), np.array([1.0, 1.0]), np.array([0, 1]))
    assert (ratio, low, high) == (2.0, 1.0, 3.0)


@pytest.mark.parametrize("theirs", [[0.0, 0.0], [0.0, 1.0], [np.nan, np.nan]])
def test_there_is_no_ratio_to_nothing(theirs: list[float]) -> None:
    """With one of two users at zero, a quarter of the draws divide by zero."""
    assert np.isnan(paired_ratio(np.array([1.0, 1.0]), np.array(theirs), np.array([0, 1]))).all()


def test_a_difference_says_who_is_better() -> None:
    """On the first query the other ranker finds nothing, its likelihoods are worse throughout, the rest is the same."""
    ours = rankings()
    worse = replace(ours, rank_A=np.array([20.0, 30.0, 3.0]), nll_A=ours.nll_A + 1)
    model = {f"minus other: {name}": value for name, value in paired_differences(ours, worse).items()}
    found = {name: gain(model, "other", name) for name in HEADLINE}
    assert (found["set_loss"], found["recall@10"]) == ((-1.0, -1.0, "better"), (0.0, 0.5, "undecided"))
    assert gain({"minus other: set_loss.low": 0.1, "minus other: set_loss.high": 0.2}, "other", "set_loss") == (0.1, 0.2, "worse")
    assert gain({}, "other", "recall@10") is None
