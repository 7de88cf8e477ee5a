"""The bootstrap over runs."""

import numpy as np
import pytest

from training.laws.resampling import draw_weights, expanded_percentiles, percentiles, student_t


def test_every_draw_takes_as_many_runs_of_a_budget_as_it_has() -> None:
    weights = draw_weights(["a", "a", "a", "b", "b"], num_draws=50)
    assert weights[:, :3].sum(1).tolist() == [3.0] * 50
    assert weights[:, 3:].sum(1).tolist() == [2.0] * 50
    assert len({tuple(row) for row in weights}) > 10


def test_a_percentile_interval_leaves_out_draws_without_a_value() -> None:
    draws = np.append(np.arange(101.0), [np.nan] * 20)
    assert percentiles(50.0, draws) == percentiles(50.0, np.arange(101.0))
    assert (percentiles(50.0, draws).low, percentiles(50.0, draws).high) == pytest.approx((2.5, 97.5))


def test_without_a_draw_there_is_no_bound() -> None:
    assert percentiles(1.0, np.array([np.nan])).low is None


def test_the_expanded_interval_of_few_runs_is_wider_by_students_t_and_by_what_the_fit_took() -> None:
    """With ten runs and five parameters: t of five degrees of freedom is 2.571, and residuals are too small by sqrt(5 / 10)."""
    draws = np.random.default_rng(0).standard_normal(100_000)
    within = expanded_percentiles(0.0, draws, num_runs=10, num_fitted=5)
    assert within.high == pytest.approx(2.571 * np.sqrt(2), abs=0.15)


def test_draws_that_diverged_widen_the_expanded_interval_at_both_ends() -> None:
    draws = np.append(np.zeros(90), [np.nan] * 10)
    within = expanded_percentiles(0.0, draws, num_runs=100, num_fitted=5)
    assert within.low is None
    assert within.high is None


def test_students_t_of_three_degrees_of_freedom_is_3_18() -> None:
    assert student_t(3) == pytest.approx(3.182, abs=1e-3)
