"""The embedder gets its share of the parameters: two percent, give or take two tenths of a point."""

import msgspec
import pytest
import torch

from tests.training.conftest import Shop
from training.budget import count_parameters, size_model
from training.recipes import RECIPES
from twotower.errors import DataError
from twotower.model.contextualizer import Contextualizer
from twotower.model.embedder import Embedder


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("width", [96, 128, 256])
def test_the_embedder_holds_two_percent(shop: Shop, name: str, width: int) -> None:
    config = msgspec.structs.replace(RECIPES[name](), width=width)
    model = size_model(config, shop.model.item_spec, shop.model.context_spec)
    assert count_parameters(model).share == pytest.approx(0.02, abs=0.002)


def test_the_count_is_that_of_the_real_towers(shop: Shop) -> None:
    counted = count_parameters(shop.model)
    for tower, number in ((Embedder(shop.model), counted.embedder), (Contextualizer(shop.model), counted.contextualizer)):
        assert sum(p.numel() for p in tower.parameters()) == number
    assert torch.get_default_device().type == "cpu"


def test_a_budget_too_small_for_the_features_is_refused(shop: Shop) -> None:
    config = msgspec.structs.replace(shop.config, embedder_share=0.001)
    with pytest.raises(DataError, match="Widen the model"):
        size_model(config, shop.model.item_spec, shop.model.context_spec)
