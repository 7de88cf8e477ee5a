"""Queries: their kernel against the model, and the columns that fill them up."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.kernels.queries import queries, queries_reference, queries_triton
from service.kernels.query_input import query_input_reference
from tests.interpreter import checked
from tests.service.kernels.requests import CONFIG, DEFAULT, KINDS, Batch, assert_close_to_truth, batch_of

SMALL = {"BLOCK_SIZE": 128}


def in_torch(batch: Batch, width: int = 40) -> Tensor:
    inputs = query_input_reference(batch.model, batch.items, *batch.tensors)
    out_QV = torch.full((len(inputs), width), 7.0, dtype=inputs.dtype)
    queries_reference(batch.model, inputs, out_QV)
    return out_QV


def by_kernel(batch: Batch, options: dict[str, int] | None = None, width: int = 40, seed: int = 0) -> Tensor:
    inputs = query_input_reference(batch.model, batch.items, *batch.tensors)
    out_QV = torch.full((len(inputs), width), 7.0)
    with checked(seed):
        queries_triton(batch.model, inputs, out_QV, options)
    return out_QV


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6, deadline=None)
@given(num=st.integers(0, 4), width=st.sampled_from([26, 32, 40]), seed=st.integers(0, 99))
def test_the_kernel_is_close_to_the_model(kind: str, num: int, width: int, seed: int) -> None:
    batch = batch_of(KINDS[kind], [2] * num, seed)
    assert_close_to_truth(by_kernel(batch, SMALL, width, seed), lambda b: in_torch(b, width), batch)


def test_columns_after_the_last_of_a_query_are_zero() -> None:
    batch = batch_of(CONFIG, [1, 2])
    inputs = query_input_reference(batch.model, batch.items, *batch.tensors)
    out_QV = torch.full((3, 32), 7.0)
    queries(batch.model, inputs, out_QV)
    for made in (out_QV, by_kernel(batch, width=32)):
        torch.testing.assert_close(made[:, :26], batch.model.queries(inputs))
        assert not made[:, 26:].any()


def test_blocks_as_they_are_shipped_are_close_to_the_model() -> None:
    batch = batch_of(DEFAULT, [2])
    assert_close_to_truth(by_kernel(batch, width=144), lambda b: in_torch(b, 144), batch)
