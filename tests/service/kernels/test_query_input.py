"""The input of the query head: its kernel against the model, and what it leaves alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.kernels.query_input import query_input, query_input_reference, query_input_triton
from tests.interpreter import checked
from tests.service.kernels.requests import CONFIG, DEFAULT, KINDS, Batch, assert_close_to_truth, batch_of

SMALL = {"BLOCK_SIZE": 128}
COUNTS = [0, 3, 1, 0, 9]


def in_torch(batch: Batch) -> Tensor:
    return query_input_reference(batch.model, batch.items, *batch.tensors)


def by_kernel(batch: Batch, options: dict[str, int] | None = None, seed: int = 0) -> Tensor:
    with checked(seed):
        return query_input_triton(batch.model, batch.items, *batch.tensors, options=options)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6, deadline=None)
@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=4), num_added=st.sampled_from([0, 4]), seed=st.integers(0, 99))
def test_the_kernel_is_close_to_the_model(kind: str, counts: list[int], num_added: int, seed: int) -> None:
    batch = batch_of(KINDS[kind], counts, seed, num_added=num_added)
    assert_close_to_truth(by_kernel(batch, SMALL, seed)[:-1], lambda b: in_torch(b)[:-1], batch)


def test_on_a_cpu_it_is_the_model() -> None:
    batch = batch_of(CONFIG, COUNTS)
    assert torch.equal(query_input(batch.model, batch.items, *batch.tensors), in_torch(batch))


def test_without_past_items_there_is_no_taste() -> None:
    batch = batch_of(CONFIG, [0, 0, 0])
    batch.is_empty_Q.zero_()
    batch.wanted_weights_QS.zero_()
    assert torch.equal(by_kernel(batch)[:, : CONFIG.width], batch.hidden_QD)


def test_a_nan_in_an_item_spoils_the_requests_that_have_it_and_no_other() -> None:
    batch = batch_of(CONFIG, COUNTS)
    batch.past_rows_M.copy_(torch.tensor([1, 2, 3, 4, *[5] * 12]))
    batch.items.built_NV[4] = torch.nan
    spoiled = by_kernel(batch, SMALL)[:, : CONFIG.width].isnan().any(1)
    assert spoiled.tolist() == [False, False, True, False, False, False]


def test_a_hidden_state_of_an_empty_history_may_be_anything() -> None:
    batch = batch_of(CONFIG, COUNTS)
    expected = by_kernel(batch)
    batch.hidden_QD[1] = torch.nan
    assert torch.equal(by_kernel(batch), expected)


def test_blocks_as_they_are_shipped_are_close_to_the_model() -> None:
    batch = batch_of(DEFAULT, [40, 0, 9])
    assert_close_to_truth(by_kernel(batch)[:-1], lambda b: in_torch(b)[:-1], batch)
