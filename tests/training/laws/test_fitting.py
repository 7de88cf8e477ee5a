"""A law from a ledger."""

from pathlib import Path

import pytest

from tests.training.laws.synthetic_runs import BEHAVIOUR, BUDGETS, a_run, isoflop_grid, isoflop_runs
from training.laws.fitting import fit_ledger, measured
from twotower.errors import DataError
from twotower.planning.law import Expected, read_law, write_law


def test_every_metric_of_the_runs_gets_its_law_by_the_same_code() -> None:
    law, fits, _ = fit_ledger(isoflop_runs(isoflop_grid(BEHAVIOUR, noise=0.005)), None, None)
    assert [fit.metric for fit in fits] == ["set_loss", "recall@10", "coverage@10"]
    for metric in ("set_loss", "recall@10"):
        parameters = law.metrics[metric].parameters
        assert parameters is not None
        assert parameters.exponent.value == pytest.approx(float(BEHAVIOUR.size_exponent), abs=0.05)


def test_recall_is_expected_to_grow_with_the_budget_and_loss_to_fall() -> None:
    law, *_ = fit_ledger(isoflop_runs(isoflop_grid(BEHAVIOUR, noise=0.005)), None, ["set_loss", "recall@10"])
    for metric, sign in (("set_loss", -1), ("recall@10", 1)):
        small, large = law.expected(metric, 1e15), law.expected(metric, 1e19)
        assert small is not None
        assert large is not None
        assert sign * (large.value - small.value) > 0
        assert small.low < small.value < small.high


def test_a_law_survives_its_file(tmp_path: Path) -> None:
    law, *_ = fit_ledger(isoflop_runs(isoflop_grid(BEHAVIOUR, noise=0.005)), None, None)
    write_law(law, tmp_path / "law.json")
    assert read_law(tmp_path / "law.json") == law


def test_a_metric_that_never_changes_gets_no_allocation_and_says_why() -> None:
    law, *_ = fit_ledger(isoflop_runs(isoflop_grid(BEHAVIOUR)), None, None)
    assert law.metrics["coverage@10"].parameters is None
    assert "0 budgets with a bottom: exponents need 3, so run 3 more" in law.metrics["coverage@10"].missing


def test_two_budgets_give_no_law_and_the_sentence_says_what_to_run_next() -> None:
    with pytest.raises(DataError, match=r"no law can be fitted to grocery-1a2b: .*the surface needs 3: run 1 more"):
        fit_ledger(isoflop_runs(isoflop_grid(BEHAVIOUR, BUDGETS[:2])), None, ["set_loss"])


def test_runs_that_are_left_out_are_counted_in_the_law() -> None:
    runs = isoflop_runs(isoflop_grid(BEHAVIOUR))
    law, *_ = fit_ledger([*runs, a_run(outcome="diverged")], None, ["set_loss"])
    assert law.left_out == {"diverged": 1}
    assert len(law.run_keys) == len(runs)


def test_an_expected_share_lies_between_0_and_1() -> None:
    wide = Expected(flops=1e12, value=0.75, low=-0.5, high=40.0)
    assert measured("recall@10", wide) == Expected(flops=1e12, value=0.25, low=0.0, high=1.0)
    assert measured("set_loss", wide) == wide
