"""Events that are read again are worth less each time, and in the end nothing."""

import pytest

from twotower.planning.compute_optimal import compute_optimal
from twotower.planning.repeated_data import budgets_of, worth


def test_data_read_once_is_worth_what_it_is() -> None:
    assert worth(1000, 1000) == 1000
    assert worth(1000, 400) == 400


def test_repeats_are_worth_less_each_time() -> None:
    """One repeat: 1000 (1 + 15.4 (1 - exp(-1 / 15.4))) = 1968; three: 3726; without end: 1000 (1 + 15.4)."""
    assert [round(worth(1000, 1000 * passes)) for passes in (2, 4, 10_000)] == [1968, 3726, 16_400]


def test_the_budgets_that_the_data_bears_are_those_whose_optimum_reads_it_so_often() -> None:
    assert {n: compute_optimal(flops).events / 1e6 for n, flops in budgets_of(1e6).items()} == pytest.approx({1: 1, 4: 4, 16: 16})
