"""Fields read each other, and nothing else does."""

import torch
from torch import Tensor

from twotower.data.features import FeatureSpec, FieldSpec
from twotower.model.config import ModelConfig
from twotower.model.tab_transformer import TabTransformer

CONFIG = ModelConfig(
    item_spec=FeatureSpec(
        fields=(
            FieldSpec(name="item_id", kind="id"),
            FieldSpec(name="brand", kind="categorical"),
            FieldSpec(name="colour", kind="categorical"),
            FieldSpec(name="image", kind="vector", dim=3),
        )
    ),
    context_spec=FeatureSpec(fields=()),
    width=16,
    num_heads=2,
    table_rows=12,
)
SLOTS = torch.tensor([[0, 1, 2, 3, 4, 5, 6]])
DENSE = torch.tensor([[0.6, 0.8, 0.0, 0.0]])


def fields_after_attention(model: TabTransformer, slots_NS: Tensor) -> Tensor:
    """What the last layer reads of each field, [N, K, E]."""
    seen: list[Tensor] = []
    hook = model.hidden.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(slots_NS, torch.ones(slots_NS.shape), DENSE.expand(len(slots_NS), -1))
    hook.remove()
    return seen[0][:, :-4].reshape(len(slots_NS), 3, -1)


def test_a_field_is_read_in_the_light_of_the_others() -> None:
    model = TabTransformer(CONFIG)
    other_brand = SLOTS.clone()
    other_brand[0, 3:5] = torch.tensor([10, 11])
    before, after = (fields_after_attention(model, slots) for slots in (SLOTS, other_brand))
    assert not torch.allclose(before[0, 2], after[0, 2]), "the colour did not change, its meaning did"


def test_the_same_token_in_another_column_is_another_token() -> None:
    model = TabTransformer(CONFIG)
    swapped = SLOTS[:, [0, 1, 2, 5, 6, 3, 4]]
    first, second = (model(slots, torch.ones(1, 7), DENSE) for slots in (SLOTS, swapped))
    assert not torch.allclose(first, second)


def test_items_do_not_read_each_other() -> None:
    model = TabTransformer(CONFIG)
    slots = torch.cat([SLOTS, SLOTS.flip(1)])
    together = model(slots, torch.ones(2, 7), DENSE.expand(2, -1))
    torch.testing.assert_close(together[:1], model(SLOTS, torch.ones(1, 7), DENSE), rtol=1e-5, atol=1e-6)


def test_slots_of_weight_zero_are_not_read() -> None:
    model = TabTransformer(CONFIG)
    weights = torch.tensor([[0.0, 0, 0, 1, 1, 1, 1]])
    other_id = SLOTS.clone()
    other_id[0, :3] = 9
    assert torch.equal(model(SLOTS, weights, DENSE), model(other_id, weights, DENSE))
