"""The loss of both stages, and id dropout."""

import numpy as np
import pytest
import torch

from tests.training.conftest import Shop
from training.losses.objective import FrozenItems, hide_ids
from training.run.loop import draw_trained_items, embed_catalogue_once, prepare_training


def test_id_dropout_silences_ids_and_nothing_else(shop: Shop) -> None:
    rows = shop.items.take(np.arange(200))
    before = rows.weights_NS.copy()
    hide_ids(rows, shop.model, 0.5, np.random.default_rng(0))
    num_ids = shop.model.item_spec.num_id_hashes
    hidden = (rows.weights_NS[:, :num_ids] == 0).all(1)
    assert 60 < hidden.sum() < 140
    np.testing.assert_array_equal(rows.weights_NS[:, num_ids:], before[:, num_ids:])
    assert (shop.items.weights_NS[:200, :num_ids] != 0).all(), "the catalogue itself is untouched"


def test_mixed_precision_computes_nearly_the_same_loss_and_gradients(shop: Shop) -> None:
    """On a CPU here; the same casts happen on a GPU."""
    inputs, state = prepare_training(shop.config, shop.model, shop.items, shop.sampler(), shop.data.snapshots)
    batch = inputs.sampler.sample(np.random.default_rng(0))
    objective = state.objective.eval()
    for scored in (draw_trained_items(inputs, state, batch), FrozenItems(embed_catalogue_once(inputs, state), None)):
        found = []
        for enabled in (False, True):
            objective.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                loss = objective(batch, scored)
            loss.backward()
            gradient = objective.contextualizer.query_scale.grad
            assert gradient is not None
            assert loss.dtype == gradient.dtype == torch.float32
            found.append((loss.item(), gradient.clone()))
        (exact, exact_gradient), (mixed, mixed_gradient) = found
        assert mixed == pytest.approx(exact, rel=1e-2)
        assert torch.cosine_similarity(mixed_gradient.flatten(), exact_gradient.flatten(), dim=0) > 0.98
