"""Popularity from the sales that a catalogue states."""

import math

import numpy as np
import pytest

from service.uploads.sales import popularity_of, sales_by_period, weights_of
from tests.service.uploads.files import catalogue


def test_sales_until_a_day_become_sales_of_each_period() -> None:
    since = [[3, 5, *[5] * 9, 40], None, [2, 1], [0] * 12]
    rows = catalogue(id=["a", "b", "c", "d"], sales_since=since, frequency=[None, 22, 7, 11])
    sales_NB = sales_by_period(rows)
    assert sales_NB[0].tolist() == [3, 2, *[0] * 9]
    assert sales_NB[1].tolist() == [2] * 11  # no sales are given: interactions count as spread over all periods
    assert sales_NB[2].tolist() == [2, *[0] * 10]  # sales cannot fall: what does not add up counts as none
    assert sales_NB[3].tolist() == [1] * 11


def test_a_weight_is_the_mean_over_its_period() -> None:
    ages_days = np.linspace(0, 30, 30_001)
    assert weights_of(14.0)[0] == pytest.approx(np.mean(0.5 ** (ages_days / 14.0)), rel=1e-4)
    assert weights_of(30.0)[1] == pytest.approx(weights_of(30.0)[0] / 2)


def test_what_sells_more_lately_is_more_popular() -> None:
    rows = catalogue(id=["now", "then", "never"], sales_since=[[9] * 12, [0, 0, 0, *[9] * 9], None])
    log_NP = popularity_of(rows, (14.0, 2.0))
    assert log_NP.shape == (3, 2)
    assert log_NP[0, 0] > log_NP[1, 0] > log_NP[2, 0]
    assert math.isclose(float(np.exp(log_NP[:, 0]).sum()), 1, rel_tol=1e-5)


def test_without_any_sales_all_are_equally_popular() -> None:
    log_NP = popularity_of(catalogue(id=["a", "b"]), (14.0, 2.0))
    assert log_NP.tolist() == [[pytest.approx(math.log(0.5)), 0.0]] * 2
