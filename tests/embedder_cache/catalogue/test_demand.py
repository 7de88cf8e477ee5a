"""Distributions of demand, by hand."""

import numpy as np
import pytest

from embedder_cache.catalogue.demand import demand, divergence, over_either


def test_what_smoothing_grants_every_item_is_no_demand() -> None:
    """Shares .1 .1 .3 .5 of which .1 each is smoothing: 0, 0, .2 and .4 of .6."""
    found = demand(np.log(np.array([0.1, 0.1, 0.3, 0.5], np.float32)))
    np.testing.assert_allclose(found, [0, 0, 1 / 3, 2 / 3], atol=1e-6)


def test_equal_items_have_no_demand() -> None:
    assert demand(np.full(3, -2.0, np.float32)).tolist() == [0, 0, 0]


def test_items_of_either_side_stand_beside_each_other() -> None:
    before, after, rows = over_either(np.array([0.5, 0.2, 0.3]), np.array([0.6, 0.3, 0.1]), np.array([2, -1, 0]))
    assert before.tolist() == [0.5, 0.2, 0.3, 0.0]
    assert after.tolist() == [0.1, 0.0, 0.6, 0.3]
    assert rows.tolist() == [2, -1, 0, 1]


def test_divergence_is_from_zero_to_one_bit() -> None:
    """Half the demand moved to an item that had none: H(3/4, 1/4) - 1/2 = .8113 - .5."""
    one, halved, other = np.array([1.0, 0.0]), np.array([0.5, 0.5]), np.array([0.0, 1.0])
    assert divergence(one, one) == 0.0
    assert divergence(one, other) == 1.0
    assert divergence(one, halved) == pytest.approx(0.3113, abs=1e-4)
    assert divergence(one, halved) == divergence(halved, one)
