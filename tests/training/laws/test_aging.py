"""How frozen models age."""

import numpy as np
import pytest

from tests.training.laws.synthetic_runs import a_run
from training.laws.aging import aged_metrics, fit_aging
from training.sweeps.ledger import Run

SIZES = (10_000, 100_000, 1_000_000)
HARD = (0.0, 0.3, -0.2, 0.5, 0.1, -0.4, 0.2)  # by what the periods differ, the last one first


def runs_of(rate: float, by_decade: float, noise: float = 0.0, sizes: tuple[int, ...] = SIZES) -> list[Run]:
    """Models whose data end 1, 4 or 7 months before the last period ends, measured in every month after."""
    rng = np.random.default_rng(0)
    runs = []
    for number, size in enumerate(sizes):
        for periods in (7, 4, 1):
            faster = rate + by_decade * (np.log10(size) - 5)
            values = {
                f"week {4.3 * age:.1f}: set_loss": 8
                - number * 0.2
                + HARD[periods - 1 - age]
                + faster * 4.3 * age
                + noise * float(rng.standard_normal())
                for age in range(periods)
            }
            runs.append(a_run(sweep="drift", parameters=size, seed=periods, metrics={**values, "train_loss": 7.0}))
    return runs


def test_rates_are_found_although_periods_differ_more_than_ages() -> None:
    found = fit_aging(runs_of(rate=0.01, by_decade=0.004), "set_loss")
    assert found.rate.value + (5 - np.log10(found.centre)) * 0.004 == pytest.approx(0.01)
    assert found.by_decade is not None
    assert found.by_decade.value == pytest.approx(0.004)
    assert found.at(100_000, np.array([0.0, 10.0])) == pytest.approx([7.8, 7.9])


def test_models_that_age_alike_whatever_their_size_have_0_in_the_interval() -> None:
    found = fit_aging(runs_of(rate=0.01, by_decade=0.0, noise=0.02), "set_loss").by_decade
    assert found is not None
    assert (found.low or 0.0) < 0 < (found.high or 0.0)


def test_of_one_size_it_cannot_be_said_whether_larger_ones_age_faster() -> None:
    found = fit_aging(runs_of(0.01, 0.0, sizes=(10_000, 10_000)), "set_loss")
    assert found.by_decade is None
    assert found.rate.value == pytest.approx(0.01)


def test_the_loss_without_its_period_lies_on_the_line_of_its_size() -> None:
    found = fit_aging(runs_of(0.01, 0.0), "set_loss")
    mine = found.parameters_M == 10_000
    assert found.adjusted_M[mine] == pytest.approx(8 + 0.01 * found.age_M[mine])


def test_only_metrics_with_an_age_are_aged() -> None:
    assert aged_metrics(runs_of(0.01, 0.0)) == ["set_loss"]


def test_models_that_were_all_frozen_at_one_time_are_refused() -> None:
    """Their age cannot be told from how hard a period is."""
    same = [run for run in runs_of(0.01, 0.0) if run.seed == 7] * 2
    with pytest.raises(ValueError, match="at 3 different times at least; `twotower sweep drift` runs them"):
        fit_aging(same, "set_loss")
