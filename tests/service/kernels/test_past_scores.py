"""Scores of past items: their kernel against the model, and which it writes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.kernels.past_scores import past_scores, past_scores_reference, past_scores_triton
from service.kernels.query_input import query_input_reference
from tests.interpreter import checked
from tests.service.kernels.requests import CONFIG, DEFAULT, KINDS, Batch, assert_close_to_truth, batch_of

SMALL = {"BLOCK_M": 16}


def prepared(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = query_input_reference(batch.model, batch.items, *batch.tensors)
    queries = torch.nn.functional.pad(batch.model.queries(inputs), (0, 5), value=torch.nan)
    return queries, inputs, batch.activity_QA, *batch.past


def in_torch(batch: Batch) -> Tensor:
    out_M = batch.past_features_MG.new_empty(len(batch.past_rows_M))
    past_scores_reference(batch.model, batch.items, *prepared(batch), out_M=out_M)
    return out_M[: int(batch.past_offsets_F[-1])]


def by_kernel(batch: Batch, options: dict[str, int] | None = None, seed: int = 0) -> Tensor:
    out_M = torch.full((len(batch.past_rows_M),), 7.0)
    with checked(seed):
        past_scores_triton(batch.model, batch.items, *prepared(batch), out_M=out_M, options=options)
    return out_M


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6, deadline=None)
@given(counts=st.lists(st.integers(0, 90), max_size=4), num_added=st.sampled_from([0, 4]), seed=st.integers(0, 99))
def test_the_kernel_is_close_to_the_model(kind: str, counts: list[int], num_added: int, seed: int) -> None:
    batch = batch_of(KINDS[kind], [1, *counts], seed, num_added=num_added)
    assert_close_to_truth(by_kernel(batch, SMALL, seed)[: 1 + sum(counts)], in_torch, batch)


def test_items_of_nobody_are_not_scored() -> None:
    assert by_kernel(batch_of(CONFIG, [0, 4, 0]))[4:].tolist() == [7.0] * 3


def test_on_a_cpu_it_is_the_model() -> None:
    batch, out_M = batch_of(CONFIG, [2, 0, 5]), torch.empty(10)
    past_scores(batch.model, batch.items, *prepared(batch), out_M=out_M)
    assert torch.equal(out_M[:7], in_torch(batch))


def test_blocks_as_they_are_shipped_are_close_to_the_model() -> None:
    batch = batch_of(DEFAULT, [30, 0, 70])
    assert_close_to_truth(by_kernel(batch)[:100], in_torch, batch)
