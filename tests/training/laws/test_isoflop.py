"""IsoFLOP valleys and the exponents through their bottoms."""

import numpy as np
import pytest

from tests.training.laws.synthetic_runs import BEHAVIOUR, BUDGETS, CHINCHILLA, isoflop_grid
from training.laws.isoflop import events_at, fit_isoflop
from training.laws.parametric import Parametric
from twotower.planning.law import Interval


@pytest.mark.parametrize("truth", [CHINCHILLA, BEHAVIOUR], ids=["chinchilla", "behaviour"])
def test_without_noise_the_exponents_are_those_of_the_surface(truth: Parametric) -> None:
    budgets = BUDGETS * 1e3 if truth is CHINCHILLA else BUDGETS
    fit = fit_isoflop(*isoflop_grid(truth, budgets))
    assert fit.problems == []
    assert fit.parameters_law is not None
    assert fit.events_law is not None
    assert fit.parameters_law.exponent.value == pytest.approx(truth.size_exponent, abs=0.002)
    assert fit.events_law.exponent.value == pytest.approx(1 - truth.size_exponent, abs=0.002)


def test_the_exponent_lies_within_its_interval_in_93_of_100_grids() -> None:
    """Noise 0.5 %, seven sizes at five budgets."""
    inside = 0
    for seed in range(100):
        law = fit_isoflop(*isoflop_grid(BEHAVIOUR, noise=0.005, seed=seed)).parameters_law
        assert law is not None
        inside += bool((law.exponent.low or -np.inf) <= BEHAVIOUR.size_exponent <= (law.exponent.high or np.inf))
    assert inside >= 93


def test_budgets_whose_bottom_is_outside_are_left_out_of_the_law() -> None:
    points = isoflop_grid(BEHAVIOUR)
    half = (points.flops_R > BUDGETS[0]) | (points.parameters_R > np.median(points.parameters_R[:7]) * 1.5)
    fit = fit_isoflop(*points.where(half))
    assert len(fit.optima()) == 4
    assert fit.problems == ["the valley at 1e+15 FLOPs has 3 sizes, and needs 4: run 1 more"]


def test_two_budgets_give_no_law_and_say_how_many_more() -> None:
    fit = fit_isoflop(*isoflop_grid(BEHAVIOUR, BUDGETS[:2]))
    assert fit.parameters_law is None
    assert fit.problems == ["2 budgets with a bottom: exponents need 3, so run 1 more"]


def test_leaving_out_a_budget_names_it() -> None:
    without = fit_isoflop(*isoflop_grid(BEHAVIOUR)).leave_one_out
    assert list(without) == list(BUDGETS)
    assert list(without.values()) == pytest.approx([float(BEHAVIOUR.size_exponent)] * 5, abs=0.005)


def test_events_fall_along_a_curve_so_the_ends_of_their_interval_change_places() -> None:
    parameters = np.array([1e3, 1e4, 1e5])
    events = events_at(Interval(1e4, 5e3, 1e6), parameters, 1e12 / parameters)
    assert (events.value, events.low, events.high) == pytest.approx((1e8, 1e6, 2e8))


def test_an_infinite_end_stays_infinite() -> None:
    parameters = np.array([1e3, 1e4, 1e5])
    assert events_at(Interval(1e4, None, 2e4), parameters, 1e12 / parameters).high is None
