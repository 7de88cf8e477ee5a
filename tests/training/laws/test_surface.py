"""The surface with its intervals, its checks, and what it lets one expect."""

import numpy as np
import pytest

from tests.training.laws.synthetic_runs import BEHAVIOUR, BUDGETS, isoflop_grid
from training.laws.surface import Points, fit_surface, limits_reached, optimum
from twotower.planning.law import Interval


def test_the_known_exponents_lie_within_their_intervals_in_93_of_100_grids() -> None:
    """Noise 0.5 %, seven sizes at five budgets."""
    truth = {"alpha": BEHAVIOUR.alpha, "beta": BEHAVIOUR.beta, "size_exponent": BEHAVIOUR.size_exponent}
    inside = dict.fromkeys(truth, 0)
    for seed in range(100):
        surface = fit_surface(isoflop_grid(BEHAVIOUR, noise=0.005, seed=seed), num_draws=200).surface
        for name, value in truth.items():
            within: Interval = getattr(surface, name)
            inside[name] += bool((within.low or -np.inf) <= value <= (within.high or np.inf))
    assert min(inside.values()) >= 93, inside


def test_the_noise_that_was_added_is_the_noise_that_is_found() -> None:
    surface = fit_surface(isoflop_grid(BEHAVIOUR, noise=0.005)).surface
    assert surface.relative_noise == pytest.approx(0.005, rel=0.4)
    assert surface.held_out_error is not None
    assert surface.held_out_error < 0.015


def test_the_largest_budget_is_predicted_from_the_others_when_the_law_holds_and_not_when_it_does_not() -> None:
    points = isoflop_grid(BEHAVIOUR)
    exact = fit_surface(points).surface.held_out_error
    saturated = np.where(points.flops_R == BUDGETS[-1], points.loss_R * 1.1, points.loss_R)
    broken = fit_surface(points._replace(loss_R=saturated)).surface.held_out_error
    assert exact == pytest.approx(0.0, abs=1e-5)
    assert broken == pytest.approx(1 - 1 / 1.1, rel=0.01)


def test_every_budget_is_left_out_once() -> None:
    left_out = fit_surface(isoflop_grid(BEHAVIOUR)).surface.leave_one_out
    assert list(left_out) == ["1e+15", "1e+16", "1e+17", "1e+18", "1e+19"]
    assert list(left_out.values()) == pytest.approx([float(BEHAVIOUR.size_exponent)] * 5, abs=1e-3)


def test_the_expected_loss_is_that_of_the_best_size_from_a_decade_below_to_a_decade_above() -> None:
    points = isoflop_grid(BEHAVIOUR)
    curve = fit_surface(points).curve
    assert (curve[0].flops, curve[-1].flops) == pytest.approx((1e14, 1e20))
    at_1e17 = next(one for one in curve if one.flops == pytest.approx(1e17))
    assert at_1e17.value == pytest.approx(points.loss_R[points.flops_R == 1e17].min(), rel=1e-4)


def test_the_interval_of_a_further_run_holds_nine_in_ten_further_runs_at_least() -> None:
    seen, exact = isoflop_grid(BEHAVIOUR, noise=0.005), isoflop_grid(BEHAVIOUR)
    expected = next(one for one in fit_surface(seen).curve if one.flops == pytest.approx(1e17))
    further = exact.loss_R[exact.flops_R == 1e17].min() * np.exp(0.005 * np.random.default_rng(1).standard_normal(1000))
    assert np.mean((expected.low <= further) & (further <= expected.high)) > 0.9


def test_the_optimum_uses_what_an_event_costs_in_the_runs() -> None:
    """Runs that pay 12 FLOPs per parameter and event reach a loss with half of the budget's events."""
    points = isoflop_grid(BEHAVIOUR)
    dear = points._replace(flops_R=points.flops_R * 2)
    assert optimum(dear, BEHAVIOUR, 2e17) == pytest.approx(optimum(points, BEHAVIOUR, 1e17), rel=0.05)


def test_an_exponent_at_the_limit_of_the_search_is_said_to_be_unknown() -> None:
    assert limits_reached(BEHAVIOUR) == []
    (sentence,) = limits_reached(BEHAVIOUR._replace(alpha=np.array(5.0)))
    assert sentence == "the runs do not bound alpha of the surface, which ends at 5: run a wider range of sizes"


def test_metrics_that_only_scatter_have_no_surface() -> None:
    points = isoflop_grid(BEHAVIOUR)
    scattered = 0.95 + 0.01 * np.random.default_rng(0).standard_normal(35)
    with pytest.raises(ValueError, match="no more than the noise of runs: run more seeds, or budgets further apart"):
        fit_surface(points._replace(loss_R=scattered))


def few(points: Points, budgets: int, sizes: int) -> Points:
    return points.where((points.flops_R <= BUDGETS[budgets - 1]) & (np.tile(np.arange(7), 5) < sizes))


def test_too_few_budgets_sizes_or_runs_are_refused_with_what_to_run_next() -> None:
    points = isoflop_grid(BEHAVIOUR)
    same = points._replace(parameters_R=np.tile(points.parameters_R[:7], 5))
    with pytest.raises(ValueError, match="2 budgets, and the surface needs 3: run 1 more"):
        fit_surface(few(points, 2, 7))
    with pytest.raises(ValueError, match="2 sizes, and the surface needs 4: run 2 more"):
        fit_surface(few(same, 5, 2))
    with pytest.raises(ValueError, match="5 runs for 5 parameters"):
        fit_surface(points.where(np.isin(np.arange(35), [0, 1, 7, 8, 14])))
