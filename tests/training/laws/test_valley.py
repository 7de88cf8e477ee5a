"""Valleys in one size: where the bottom is, how well it is known, and when there is none."""

import numpy as np
import numpy.typing as npt
import pytest

from training.laws.valley import Group, bottoms, fit_curve, fit_curves, fit_valley
from twotower.planning.compute_optimal import short

SIZES: npt.NDArray[np.float64] = np.array([1e3, 1e4, 1e5, 1e6, 1e7])
NOISE = np.array([1, -2, 0, 2, -1]) * 0.01  # orthogonal to a constant and a line


def valley_at(place: float) -> npt.NDArray[np.float64]:
    """Losses 2 + (log10(size) - place)^2."""
    loss: npt.NDArray[np.float64] = 2 + (np.log10(SIZES) - place) ** 2
    return loss


def test_the_bottom_of_an_exact_parabola_is_found() -> None:
    valley = fit_valley(SIZES, valley_at(4.5))
    assert valley.bottom == "inside"
    assert valley.optimum.value == pytest.approx(10**4.5)
    assert valley.loss == pytest.approx(2.0)


def test_the_interval_is_where_the_slope_is_not_different_from_zero() -> None:
    """With x = log10(size) - 5: slope 0, curvature 1, and the noise 0.05 of 2 degrees of freedom, t = 4.303."""
    loss = valley_at(5.0) + NOISE
    valley = fit_valley(SIZES, loss)
    x = np.log10(SIZES) - 5
    terms = np.vander(x, 3, increasing=True)
    coefficients = np.linalg.lstsq(terms, loss, rcond=None)[0]
    variance = ((loss - terms @ coefficients) ** 2).sum() / 2 * np.linalg.inv(terms.T @ terms)
    assert valley.optimum.low is not None
    assert valley.optimum.high is not None
    for end in (valley.optimum.low, valley.optimum.high):
        at = np.log10(end) - 5
        gradient = np.array([0, 1, 2 * at])
        assert abs(gradient @ coefficients) == pytest.approx(4.30265 * np.sqrt(gradient @ variance @ gradient), rel=1e-4)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    inside = 0
    for seed in range(400):
        valley = fit_valley(SIZES, valley_at(4.7) + 0.05 * np.random.default_rng(seed).standard_normal(5))
        low, high = valley.optimum.low or 0.0, valley.optimum.high or np.inf
        inside += low <= 10**4.7 <= high
    assert 0.93 <= inside / 400 <= 0.97


def test_the_flat_band_ends_where_the_loss_is_one_noise_above_the_bottom() -> None:
    valley = fit_valley(SIZES, valley_at(5.0) + NOISE)
    assert valley.flat is not None
    assert valley.at(np.array(valley.flat)) == pytest.approx([valley.loss + valley.noise] * 2)


@pytest.mark.parametrize(("place", "bottom", "advice"), [(2.0, "below", "run smaller sizes"), (9.0, "above", "run larger sizes")])
def test_a_bottom_outside_the_sizes_is_said_and_not_extrapolated(place: float, bottom: str, advice: str) -> None:
    curve = fit_curve(Group(1e12, SIZES, valley_at(place)), "sizes", short)
    assert curve.valley is not None
    assert curve.valley.bottom == bottom
    assert curve.found is None
    assert curve.problem.startswith("the valley at 1e+12 FLOPs has no bottom between 1k and 10M")
    assert curve.problem.endswith(advice)


def test_a_hill_has_no_bottom_and_the_better_end_says_where_to_go_on() -> None:
    curve = fit_curve(Group(1e12, SIZES, -valley_at(4.5)), "sizes", short)
    assert curve.problem.endswith("it still improves at the upper end, so run larger sizes")


def test_a_valley_within_the_noise_asks_for_more_seeds() -> None:
    loss = 2 + 1e-3 * (np.log10(SIZES) - 5) ** 2 + NOISE
    curve = fit_curve(Group(1e12, SIZES, loss), "sizes", short)
    assert curve.found is None
    assert curve.problem.endswith("its bottom has no bound: run more seeds")


def test_three_sizes_are_too_few_and_the_sentence_says_how_many_more() -> None:
    curve = fit_curve(Group(1e12, SIZES[:3], valley_at(4.0)[:3]), "sizes", short)
    assert curve.valley is None
    assert curve.problem == "the valley at 1e+12 FLOPs has 3 sizes, and needs 4: run 1 more"


def test_the_noise_of_all_budgets_narrows_the_interval_of_each() -> None:
    groups = [Group(flops, SIZES, valley_at(5.0) + NOISE) for flops in (1e11, 1e12, 1e13)]
    together, alone = fit_curves(groups, "sizes", short)[0].found, fit_curve(groups[0], "sizes", short).found
    assert together is not None
    assert alone is not None
    assert together.noise == pytest.approx(alone.noise)
    assert (together.optimum.high or np.inf) < (alone.optimum.high or 0.0)


def test_bootstrap_draws_weigh_runs_and_those_without_a_bottom_are_nan() -> None:
    loss = valley_at(4.5)
    weights = np.array([[1, 1, 1, 1, 1], [3, 1, 1, 0, 0], [5, 0, 0, 0, 0]], float)
    found = bottoms(SIZES, loss, weights)
    assert found[:2] == pytest.approx([10**4.5] * 2)
    assert np.isnan(found[2])
