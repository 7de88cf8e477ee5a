"""What a step differentiates."""

import numpy as np

from tests.training.conftest import Shop
from training.objective import hide_ids


def test_id_dropout_silences_ids_and_nothing_else(shop: Shop) -> None:
    rows = shop.items.take(np.arange(200))
    before = rows.weights_NS.copy()
    hide_ids(rows, shop.model, 0.5, np.random.default_rng(0))
    num_ids = shop.model.item_spec.num_id_hashes
    hidden = (rows.weights_NS[:, :num_ids] == 0).all(1)
    assert 60 < hidden.sum() < 140
    np.testing.assert_array_equal(rows.weights_NS[:, num_ids:], before[:, num_ids:])
    assert (shop.items.weights_NS[:200, :num_ids] != 0).all(), "the catalogue itself is untouched"
