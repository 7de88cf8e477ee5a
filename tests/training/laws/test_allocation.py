"""Exponents over budgets."""

import numpy as np
import pytest

from training.laws.allocation import exponents, power_law, standard_error
from twotower.planning.compute_optimal import published


def test_the_published_points_give_the_published_exponents_and_error() -> None:
    """N* ~ C^(0.617 +- 0.025) and D* ~ C^(0.383 +- 0.025), where +- is one standard error."""
    flops = np.array([plan.flops for plan in published()])
    parameters, events = (np.array([getattr(plan, name) for plan in published()]) for name in ("parameters", "events"))
    assert power_law(flops, parameters).exponent.value == pytest.approx(0.617, abs=5e-4)
    assert power_law(flops, events).exponent.value == pytest.approx(0.383, abs=5e-4)
    assert standard_error(flops, parameters) == pytest.approx(0.025, abs=5e-4)


def test_an_interval_of_few_budgets_uses_students_t() -> None:
    """Five points leave three degrees of freedom: 3.18 standard errors, and not 1.96."""
    flops = np.array([plan.flops for plan in published()])
    law = power_law(flops, np.array([plan.parameters for plan in published()]))
    assert law.exponent.high is not None
    assert law.exponent.high - law.exponent.value == pytest.approx(0.079, abs=5e-4)


def test_an_exact_power_law_is_found_with_its_anchor() -> None:
    law = power_law(np.array([1e10, 1e12, 1e14]), 5.0 * np.array([1e10, 1e12, 1e14]) ** 0.5)
    assert law.anchor == pytest.approx(1e12)
    assert law.at_anchor.value == pytest.approx(5e6)
    assert law.at(1e16) == pytest.approx(5e8)


def test_two_budgets_are_refused() -> None:
    with pytest.raises(ValueError, match="2 budgets with a bottom: exponents need 3, so run 1 more"):
        power_law(np.array([1e10, 1e11]), np.array([1.0, 2.0]))


def test_a_draw_without_a_bottom_at_a_budget_goes_through_the_others() -> None:
    sizes = np.array([[1.0, 10.0, 100.0], [1.0, np.nan, 10.0], [1.0, np.nan, np.nan]])
    found = exponents(np.array([1e10, 1e12, 1e14]), sizes)
    assert found[:2] == pytest.approx([0.5, 0.25])
    assert np.isnan(found[2])
