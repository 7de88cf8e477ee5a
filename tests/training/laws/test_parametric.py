"""The parametric law."""

import numpy as np
import pytest

from tests.training.laws.synthetic_runs import BEHAVIOUR, CHINCHILLA, isoflop_grid
from training.laws.parametric import DELTA, Parametric, fit, refit

HOFFMANN_BUDGETS = np.array([6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21])  # those of their isoFLOP curves


@pytest.mark.parametrize("truth", [CHINCHILLA, BEHAVIOUR], ids=["chinchilla", "behaviour"])
def test_points_of_a_law_give_its_parameters(truth: Parametric) -> None:
    """The refit of Chinchilla, from points that it generates at the budgets of the paper."""
    _, parameters, events, loss = isoflop_grid(truth, HOFFMANN_BUDGETS)
    assert np.array(fit(parameters, events, loss)) == pytest.approx(np.array(truth), rel=1e-4)


def test_the_fit_is_a_minimum_of_hubers_loss() -> None:
    _, parameters, events, loss = isoflop_grid(CHINCHILLA, HOFFMANN_BUDGETS, noise=0.005)
    found = fit(parameters, events, loss)

    def cost(law: Parametric) -> float:
        size = np.abs(np.log(law.at(parameters, events) / loss))
        return float(np.where(size <= DELTA, size**2 / 2, DELTA * (size - DELTA / 2)).sum())

    for name in Parametric._fields:
        for factor in (0.998, 1.002):
            assert cost(found._replace(**{name: getattr(found, name) * factor})) > cost(found), name


def test_one_run_that_went_wrong_hardly_moves_the_exponents() -> None:
    """Huber's loss grows linearly, so that a loss 30 % too high counts little more than one 1 % too high."""
    _, parameters, events, loss = isoflop_grid(CHINCHILLA, HOFFMANN_BUDGETS)
    loss[10] *= 1.3
    assert np.array(fit(parameters, events, loss)[2::2]) == pytest.approx([0.348, 0.366], abs=0.002)


def test_a_run_that_counts_twice_is_a_run_that_is_there_twice() -> None:
    _, parameters, events, loss = isoflop_grid(BEHAVIOUR, noise=0.005)
    weights = np.ones((1, len(loss)))
    weights[0, 3] = 2
    twice = fit(*(np.append(values, values[3]) for values in (parameters, events, loss)))
    again = refit(fit(parameters, events, loss), parameters, events, loss, weights)
    assert np.array(again)[:, 0] == pytest.approx(np.array(twice), rel=1e-3)


def test_a_surface_that_does_not_depend_on_the_events_gets_no_term_for_them() -> None:
    _, parameters, events, _ = isoflop_grid(CHINCHILLA, HOFFMANN_BUDGETS)
    law = fit(parameters, events, 2.0 + 400.0 * parameters**-0.35)
    assert np.max(law.B * events**-law.beta) < 0.002 * 2.0
    assert law.alpha == pytest.approx(0.35, abs=0.01)
