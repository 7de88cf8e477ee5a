"""The planner returns the published points, interpolates between them, and extrapolates beyond them."""

import math

import pytest

from twotower.planning.compute_optimal import (
    EVENTS_PER_PARAMETER,
    compute_optimal,
    data_notice,
    fitted_law,
    flops_for_events,
    law_error,
    num_negatives,
    optimal_events,
    plan_lines,
    published_slope,
)

BUDGETS = [1e15, 1e16, 1e17, 1e18, 1e19]


def test_the_published_points_are_reproduced() -> None:
    plans = [compute_optimal(flops) for flops in BUDGETS]
    assert [round(p.events_per_parameter) for p in plans] == [344, 265, 222, 110, 36]
    assert [float(f"{p.parameters / 1e6:.3g}") for p in plans] == [0.696, 2.51, 8.66, 38.9, 215.0]
    assert [float(f"{p.events / 1e9:.3g}") for p in plans] == [0.239, 0.665, 1.92, 4.28, 7.75]


@pytest.mark.parametrize("flops", [1e13, 1e15, 3e15, 1e17, 7.7e18, 1e21])
def test_a_plan_spends_its_budget(flops: float) -> None:
    plan = compute_optimal(flops)
    assert 6 * plan.parameters * plan.events == pytest.approx(flops)


def test_between_two_points_the_plan_is_their_geometric_mean() -> None:
    middle, low, high = (compute_optimal(flops).parameters for flops in (math.sqrt(1e15 * 1e16), 1e15, 1e16))
    assert middle == pytest.approx(math.sqrt(low * high))


@pytest.mark.parametrize(("near", "beyond"), [(1e15, 1e13), (1e19, 1e21)])
def test_beyond_the_points_the_law_goes_on_from_the_nearest(near: float, beyond: float) -> None:
    ends = compute_optimal(near), compute_optimal(beyond)
    assert math.log(ends[1].parameters / ends[0].parameters) / math.log(beyond / near) == pytest.approx(0.617)
    assert math.log(ends[1].events / ends[0].events) / math.log(beyond / near) == pytest.approx(0.383)


def test_the_law_is_the_line_through_the_points() -> None:
    """Least squares of log N on log C over the five points has the published slope, and passes through their centre."""
    steps, logs = range(-2, 3), [math.log10(compute_optimal(flops).parameters) for flops in BUDGETS]
    assert sum(s * y for s, y in zip(steps, logs, strict=True)) / sum(s * s for s in steps) == pytest.approx(0.617, abs=5e-4)
    assert [round(fitted_law(flops).events_per_parameter) for flops in BUDGETS] == [445, 260, 152, 88, 52]


def test_least_squares_give_the_published_exponents_and_their_error() -> None:
    slope = published_slope()
    assert round(slope.exponent, 3) == 0.617
    assert round(1 - slope.exponent, 3) == 0.383
    assert round(slope.standard_error, 4) == 0.0248
    assert round(slope.half_width, 3) == 0.079


def test_how_far_the_law_is_off_is_told_for_every_budget() -> None:
    assert [round(100 * law_error(flops)) for flops in BUDGETS] == [29, -2, -32, -20, 43]


def test_points_and_law_differ_by_up_to_half() -> None:
    ratios = [EVENTS_PER_PARAMETER[flops] / fitted_law(flops).events_per_parameter for flops in BUDGETS]
    assert max(max(r, 1 / r) for r in ratios) == pytest.approx(1.46, abs=0.01)


@pytest.mark.parametrize("flops", [1e14, 1e15, 4e16, 1e19, 1e20])
def test_what_a_model_asks_of_the_data_is_what_its_budget_plans(flops: float) -> None:
    plan = compute_optimal(flops)
    assert optimal_events(plan.parameters) == pytest.approx(plan.events)


@pytest.mark.parametrize("flops", [1e10, 1e15, 4e16, 1e19, 1e20])
def test_the_budget_of_a_number_of_events_is_that_which_plans_it(flops: float) -> None:
    assert flops_for_events(compute_optimal(flops).events) == pytest.approx(flops)


def test_negatives_grow_from_low_hundreds_of_thousands_to_a_million() -> None:
    assert [num_negatives(flops) for flops in (1e13, 1e15, 1e18, 1e21)] == [200_000, 200_000, 1_000_000, 1_000_000]
    assert 300_000 < num_negatives(1e16) < 400_000


def test_a_plan_shows_points_and_law() -> None:
    points, law = plan_lines(1e15)
    assert points == "1e+15 FLOPs, by the published points: 0.696M parameters, 0.239B events, 344 of them per parameter"
    assert law == "by the law through them: 0.612M parameters, 0.272B events, 445 of them per parameter"


def test_data_short_of_the_optimum_is_said() -> None:
    what, so = data_notice(840_000, 1_200_000)
    assert what == ("1.2M training events; a model of 0.84M parameters is compute-optimal with 0.278B: 232 passes over the data")
    assert "overfit" in so


def test_data_that_is_enough_needs_no_words() -> None:
    assert data_notice(840_000, 300_000_000) == []


@pytest.mark.parametrize("flops", [0.0, -1e15, math.inf, math.nan])
def test_a_budget_that_is_none_is_refused(flops: float) -> None:
    with pytest.raises(ValueError, match="such as 1e15"):
        compute_optimal(flops)
