"""What is expected of new items, worked by hand."""

import numpy as np
import pytest

from twotower.data import new_items
from twotower.data.new_items import BoughtItems, with_expected

LOG_POPULARITY = np.log(np.array([0.2, 0.1, 0.05, 0.001], np.float32))
VECTORS = np.array([[1, 0], [0, 1], [-1, -1], [5, 5]], np.float32)  # the mean of the bought ones is 0


def bought(log_popularity_N: np.ndarray = LOG_POPULARITY) -> BoughtItems:
    return BoughtItems.of(VECTORS, log_popularity_N, np.arange(4))


def test_an_item_nobody_bought_says_nothing_of_new_ones() -> None:
    assert bought().rows_B.tolist() == [0, 1, 2]
    assert bought(np.full(4, -9.0, np.float32)).rows_B.tolist() == []


def test_only_the_given_rows_are_compared_with() -> None:
    assert BoughtItems.of(VECTORS, LOG_POPULARITY, np.array([0, 2, 3])).rows_B.tolist() == [0, 2]


def test_the_nearest_point_in_the_same_direction_from_the_mean_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_items, "NEIGHBOURS", 1)
    assert bought().nearest(np.array([[9, 1], [0.1, 2], [-0.1, -0.1]], np.float32)).tolist() == [[0], [1], [2]]


def test_neighbours_do_not_depend_on_the_size_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    new_AD = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    whole_AK = bought().nearest(new_AD)
    monkeypatch.setattr(new_items, "BLOCK_SCORES", 3)
    np.testing.assert_array_equal(bought().nearest(new_AD), whole_AK)


def test_of_too_many_bought_items_evenly_spaced_ones_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_items, "MAX_COMPARED", 2)
    assert bought().rows_B.tolist() == [0, 2]


def test_a_new_item_is_expected_to_sell_the_squared_mean_root_of_its_neighbours() -> None:
    neighbours_AK = np.log([[0.01, 0.09]])  # roots .1 and .3
    (value,) = with_expected(np.log(np.array([0.005])), neighbours_AK, 0.0, 14.0)
    assert np.exp(value) == pytest.approx(0.005 + 0.04)


def test_what_is_expected_fades_from_the_first_event_on() -> None:
    neighbours_AK = np.log([[0.04], [0.04]])
    values = with_expected(np.log(np.array([0.001, 0.001])), neighbours_AK, np.array([0.0, 28.0]), 14.0)
    np.testing.assert_allclose(np.exp(values), [0.041, 0.011], rtol=1e-5)


def test_nothing_is_expected_where_nothing_was_bought() -> None:
    own = np.array([-9.0], np.float32)
    nobody = bought(np.full(4, -9.0, np.float32))
    neighbours_AK = nobody.log_popularity_B[nobody.nearest(np.ones((1, 2), np.float32))]
    assert with_expected(own, neighbours_AK, 0.0, 14.0).tolist() == [-9.0]
