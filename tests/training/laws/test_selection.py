"""Which runs a fit takes."""

import numpy as np
import pytest

from tests.training.laws.synthetic_runs import a_run
from training.laws.selection import as_loss, by_budget, choose, higher_is_better, losses, metrics_of
from twotower.errors import DataError


def test_two_corpora_in_one_ledger_are_refused_until_one_is_chosen() -> None:
    runs = [a_run(corpus="zipf-1.0-aa"), a_run(corpus="zipf-1.0-aa", seed=1), a_run(corpus="zipf-1.5-bb")]
    with pytest.raises(DataError, match=r"mixes 2 corpora.*zipf-1.0-aa \(2 runs\), zipf-1.5-bb \(1 runs\) with --corpus"):
        choose(runs, None, "isoflop")
    assert len(choose(runs, "zipf-1.0-aa", "isoflop").runs) == 2


def test_the_beginning_of_a_name_is_enough_if_only_one_corpus_begins_so() -> None:
    runs = [a_run(corpus="zipf-1.0-aa"), a_run(corpus="zipf-1.5-bb")]
    assert choose(runs, "zipf-1.5", "isoflop").corpus == "zipf-1.5-bb"
    with pytest.raises(DataError, match="mixes 2 corpora"):
        choose(runs, "zipf", "isoflop")


def test_an_unknown_corpus_is_refused_with_those_there_are() -> None:
    with pytest.raises(DataError, match=r"no runs on 'shop': choose one of grocery-1a2b \(1 runs\)"):
        choose([a_run()], "shop", "isoflop")


def test_runs_that_diverged_or_are_excluded_are_left_out_counted_and_named() -> None:
    diverged, excluded = a_run(outcome="diverged", seed=1), a_run(excluded="too few steps", seed=2)
    chosen = choose([a_run(), diverged, excluded], None, "isoflop")
    assert [run.seed for run in chosen.runs] == [0]
    assert chosen.counted() == {"diverged": 1, "excluded: too few steps": 1}
    assert f"1 (diverged): {diverged.key}" in chosen.sentence()


def test_a_ledger_without_the_sweep_says_which_it_has() -> None:
    with pytest.raises(DataError, match=r"no run of the sweep 'isoflop' \(share \(1 runs\)\): run `twotower sweep`"):
        choose([a_run(sweep="share")], None, "isoflop")


def test_a_ledger_of_runs_that_all_diverged_says_so() -> None:
    with pytest.raises(DataError, match=r"none of the 1 runs of 'isoflop' on grocery-1a2b can be fitted \(1 diverged\)"):
        choose([a_run(outcome="diverged")], None, "isoflop")


@pytest.mark.parametrize("metric", ["recall@10", "test: ndcg@10", "week 3: coverage@10"])
def test_shares_of_successes_are_fitted_as_one_minus_the_metric(metric: str) -> None:
    assert higher_is_better(metric)
    assert as_loss(metric, 0.25) == 0.75


@pytest.mark.parametrize("metric", ["set_loss", "test: set_loss", "entropy", "perplexity", "gini@10"])
def test_losses_are_fitted_as_they_are(metric: str) -> None:
    assert as_loss(metric, 2.5) == 2.5


def test_a_run_without_the_metric_is_named_with_the_metrics_that_all_have() -> None:
    runs = [a_run(metrics={"set_loss": 8.0, "mrr@10": 0.1}), a_run(metrics={"set_loss": 8.0}, seed=1)]
    with pytest.raises(DataError, match=r"1 of 2 runs have no mrr@10 \(.*-1-1000000\): choose --metric among set_loss"):
        losses(runs, "mrr@10")
    assert metrics_of(runs) == ["set_loss"]


def test_a_metric_that_is_not_a_number_is_no_metric() -> None:
    with pytest.raises(DataError, match="1 of 1 runs have no set_loss"):
        losses([a_run(metrics={"set_loss": np.nan})], "set_loss")


def test_budgets_come_smallest_first() -> None:
    assert list(by_budget([a_run(flops=1e13), a_run(flops=1e11), a_run(flops=1e13, seed=1)])) == [1e11, 1e13]
