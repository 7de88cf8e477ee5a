"""Signed sums of table rows, field by field: their value, their gradient and their kernel."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.interpreter import checked
from tests.twotower.kernels.oracle import DTYPES, assert_no_worse, normal
from twotower.kernels.gather_pool import gather_pool, gather_pool_reference, gather_pool_triton

SMALL = {"BLOCK_SIZE": 128}
COUNTS = [[], [0], [1], [5], [3, 2], [2, 0, 4], [0, 0]]


def test_each_field_sums_its_own_slots() -> None:
    table_RE = torch.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    pooled = gather_pool(table_RE, torch.tensor([[0, 1, 2, 2]]), torch.tensor([[1.0, -1.0, 1.0, 0.5]]), [2, 0, 2])
    assert pooled.tolist() == [[[-1.0, -10.0], [0.0, 0.0], [6.0, 60.0]]]


def test_its_gradient_is_that_of_the_formula() -> None:
    table_RE, weights_NS = normal(4, 8, seed=0).requires_grad_(), normal(3, 5, seed=1).requires_grad_()
    slots_NS = torch.tensor([[0, 1, 1, 3, 0], [2, 2, 2, 2, 2], [3, 0, 1, 2, 3]])
    weighted_NSE = table_RE[slots_NS] * weights_NS[..., None]
    plain = torch.stack([weighted_NSE[:, :2].sum(1), weighted_NSE[:, 2:].sum(1)], 1)
    ours = gather_pool(table_RE, slots_NS, weights_NS, [2, 3])
    for gradient, expected in zip(
        *(torch.autograd.grad(y.square().sum(), (table_RE, weights_NS)) for y in (ours, plain)), strict=True
    ):
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=8, deadline=None)
@given(
    num_rows=st.integers(0, 40), counts=st.sampled_from(COUNTS), width=st.sampled_from([8, 24, 32]),
    index=st.sampled_from([torch.int32, torch.int64]), seed=st.integers(0, 99),
)  # fmt: skip
def test_the_kernel_is_no_worse_than_torch(
    dtype: torch.dtype, num_rows: int, counts: list[int], width: int, index: torch.dtype, seed: int
) -> None:
    table_RE, weights_NS = normal(7, width, seed=seed, dtype=dtype), normal(num_rows, sum(counts), seed=seed + 1, dtype=dtype)
    slots_NS = torch.randint(7, weights_NS.shape, generator=torch.Generator().manual_seed(seed)).to(index)
    with checked(seed):
        made = gather_pool_triton(table_RE, slots_NS, weights_NS, counts, SMALL)
    assert_no_worse(made, gather_pool_reference, table_RE, slots_NS, weights_NS, counts)


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("num_rows", [0, 2])
def test_what_is_empty_is_zero(num_rows: int, counts: list[int]) -> None:
    """The same for one field and for several, which torch sums in two ways."""
    slots_NS = torch.zeros(num_rows, sum(counts), dtype=torch.int64)
    pooled = gather_pool(torch.ones(1, 8), slots_NS, torch.ones(slots_NS.shape), counts)
    assert torch.equal(pooled, torch.tensor(counts).float()[None, :, None].expand(num_rows, -1, 8))


@pytest.mark.parametrize("width", [8, 4096])
def test_blocks_as_they_are_shipped_are_no_worse_than_torch(width: int) -> None:
    """Of several rows, and of one that is wider than a block."""
    table_RE, slots_NS, weights_NS = normal(7, width, seed=0), torch.arange(15).view(5, 3) % 7, normal(5, 3, seed=1)
    with checked():
        made = gather_pool_triton(table_RE, slots_NS, weights_NS, [2, 1])
    assert_no_worse(made, gather_pool_reference, table_RE, slots_NS, weights_NS, [2, 1])
