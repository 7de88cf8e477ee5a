"""The input of the layers: its kernel against the model."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.kernels.event_input import event_input, event_input_reference, event_input_triton
from service.kernels.item_rows import ItemRows
from tests.interpreter import checked
from tests.service.kernels.requests import CONFIG, DEFAULT, untrained
from tests.twotower.kernels.oracle import normal
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer

SMALL = {"BLOCK_SIZE": 64}


def events(config: ModelConfig, num: int, num_items: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    slots_TS = torch.randint(config.context_table_rows, (num, 3), generator=random).int()
    rows_T = torch.randint(num_items, (num,), generator=random).int()
    return rows_T, slots_TS, normal(num, 3, seed=seed), normal(num, config.context_input, seed=seed + 1)


def items_of(config: ModelConfig, num_added: int) -> ItemRows:
    width = config.width + config.num_popularity
    return ItemRows(normal(20, width, seed=8), normal(num_added, width, seed=9) if num_added else None)


def check(
    model: Contextualizer, items: ItemRows, tensors: tuple[Tensor, Tensor, Tensor, Tensor], made: tuple[Tensor, Tensor]
) -> None:
    expected = event_input_reference(model, items, *tensors, normed_as=torch.float32)
    for ours, theirs in zip(made, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6)


@settings(max_examples=8, deadline=None)
@given(num=st.integers(0, 9), num_added=st.sampled_from([0, 4]), seed=st.integers(0, 99))
def test_the_kernel_is_close_to_the_model(num: int, num_added: int, seed: int) -> None:
    model, items = untrained(CONFIG), items_of(CONFIG, num_added)
    tensors = events(CONFIG, num, 20 + num_added, seed)
    with checked(seed):
        made = event_input_triton(model, items, *tensors, normed_as=torch.float32, options=SMALL)
    check(model, items, tensors, made)


def test_on_a_cpu_it_is_the_model_and_the_norm_has_the_type_that_is_asked_for() -> None:
    model, items, tensors = untrained(CONFIG), items_of(CONFIG, 0), events(CONFIG, 5, 20, 0)
    x_TD, normed_TD = event_input(model, items, *tensors, normed_as=torch.bfloat16)
    with checked():
        ours_TD, ours_normed_TD = event_input_triton(model, items, *tensors, normed_as=torch.bfloat16)
    context_TD = model.context_in(tensors[3]) + model.pool_slots(tensors[1], tensors[2])
    torch.testing.assert_close(x_TD, items.built_NV[tensors[0].long(), : CONFIG.width] + context_TD)
    torch.testing.assert_close(ours_TD, x_TD)
    assert normed_TD.dtype == ours_normed_TD.dtype == torch.bfloat16
    torch.testing.assert_close(ours_normed_TD, normed_TD)


@pytest.mark.parametrize("num", [9])
def test_blocks_as_they_are_shipped_are_close_to_the_model(num: int) -> None:
    model, items, tensors = untrained(DEFAULT), items_of(DEFAULT, 0), events(DEFAULT, num, 20, 0)
    with checked():
        made = event_input_triton(model, items, *tensors, normed_as=torch.float32)
    check(model, items, tensors, made)
