"""An item's vector depends on its features alone."""

import torch

from twotower.data.features import FeatureSpec, FieldSpec
from twotower.model.config import ModelConfig
from twotower.model.embedder import MlpEmbedder

CONFIG = ModelConfig(
    item_spec=FeatureSpec(fields=(FieldSpec(name="id", kind="id"), FieldSpec(name="brand", kind="categorical"))),
    context_spec=FeatureSpec(fields=()),
    width=16,
    num_heads=2,
    table_rows=10,
)


def test_slots_of_weight_zero_are_not_read() -> None:
    embedder = MlpEmbedder(CONFIG)
    slots = torch.tensor([[0, 1, 2, 3, 4], [9, 1, 2, 3, 4]])
    weights = torch.tensor([[0.0, 1, 1, 1, 1], [0.0, 1, 1, 1, 1]])
    first, second = embedder(slots, weights, torch.zeros(2, 0))
    assert torch.equal(first, second)


def test_fields_are_pooled_apart() -> None:
    """The same row in another field is another meaning."""
    embedder = MlpEmbedder(CONFIG)
    weights = torch.ones(2, 5)
    first, second = embedder(torch.tensor([[0, 0, 0, 5, 5], [5, 5, 0, 0, 0]]), weights, torch.zeros(2, 0))
    assert not torch.allclose(first, second)
