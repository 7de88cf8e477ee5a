"""Attention of one new event to a paged cache: it is that of the whole history, wherever its pages lie."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.interpreter import checked
from tests.twotower.kernels.oracle import DTYPES, assert_no_worse, normal, tables
from twotower.kernels.packed_attention import Packing, packed_attention
from twotower.kernels.paged_decode import paged_decode, paged_decode_reference, paged_decode_triton

PAGE = 16
LONGEST = 3 * PAGE
LENGTHS = [0, 1, 2, PAGE - 1, PAGE, PAGE + 1, LONGEST]


def paged(x_SGE: Tensor, lengths: list[int], pages_BM: Tensor) -> Tensor:
    """Rows of histories laid end to end, put where the table says; all else is NaN."""
    x_NGCE = torch.full((int(pages_BM.max()) + 1, x_SGE.shape[1], PAGE, x_SGE.shape[2]), torch.nan, dtype=x_SGE.dtype)
    for b, rows in enumerate(torch.split(x_SGE, lengths)):
        for start in range(0, lengths[b], PAGE):
            part = rows[start : start + PAGE]
            x_NGCE[pages_BM[b, start // PAGE], :, : len(part)] = part.transpose(0, 1)
    return x_NGCE


def drawn(
    lengths: list[int], num_heads: int, num_kv_heads: int, width: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, values and a table whose pages are in no order; where a history has none it says -1."""
    q_BHE = normal(len(lengths), num_heads, width, seed=seed, dtype=dtype)
    both = normal(sum(lengths), 2 * num_kv_heads, width, seed=seed + 1, dtype=dtype)
    order = torch.randperm(3 * len(lengths), generator=torch.Generator().manual_seed(seed))
    pages_BM = order.view(-1, 3).int()
    for b, length in enumerate(lengths):
        pages_BM[b, -(-length // PAGE) :] = -1
    return q_BHE, both[:, :num_kv_heads], both[:, num_kv_heads:], pages_BM


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_it_is_packed_attention_of_the_last_event(num_kv_heads: int) -> None:
    q_BHE, k_SGE, v_SGE, pages_BM = drawn(LENGTHS, 4, num_kv_heads, 8)
    packing = Packing(tuple(min(n, 1) for n in LENGTHS), tuple(LENGTHS), torch.device("cpu"))
    expected = packed_attention(q_BHE[1:], k_SGE, v_SGE, *tables(LONGEST, 8), packing)
    k_NGCE, v_NGCE = (paged(x, LENGTHS, pages_BM) for x in (k_SGE, v_SGE))
    made = paged_decode(q_BHE, k_NGCE, v_NGCE, pages_BM, torch.tensor(LENGTHS, dtype=torch.int32), *tables(LONGEST, 8))
    assert torch.equal(made[0], torch.zeros(4, 8))
    torch.testing.assert_close(made[1:], expected)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=8, deadline=None)
@given(
    lengths=st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=4), num_kv_heads=st.sampled_from([1, 2, 4]),
    width=st.sampled_from([16, 32, 48]), seed=st.integers(0, 99),
)  # fmt: skip
def test_the_kernel_is_no_worse_than_torch(
    dtype: torch.dtype, lengths: list[int], num_kv_heads: int, width: int, seed: int
) -> None:
    q_BHE, k_SGE, v_SGE, pages_BM = drawn(lengths, 4, num_kv_heads, width, dtype, seed)
    if not sum(lengths):
        pages_BM[0, 0] = 0
    k_NGCE, v_NGCE = (paged(x, lengths, pages_BM) for x in (k_SGE, v_SGE))
    inputs = (q_BHE, k_NGCE, v_NGCE, pages_BM, torch.tensor(lengths, dtype=torch.int32), *tables(LONGEST, width))
    with checked(seed):
        made = paged_decode_triton(*inputs)
    assert_no_worse(made, paged_decode_reference, *inputs)


def test_a_nan_stays_in_its_history() -> None:
    lengths = [3, 20, 5]
    q_BHE, k_SGE, v_SGE, pages_BM = drawn(lengths, 2, 1, 16)
    v_SGE[7] = torch.nan
    k_NGCE, v_NGCE = (paged(x, lengths, pages_BM) for x in (k_SGE, v_SGE))
    inputs = (q_BHE, k_NGCE, v_NGCE, pages_BM, torch.tensor(lengths), *tables(20, 16))
    with checked():
        for made in (paged_decode_triton(*inputs), paged_decode(*inputs)):
            assert made[1].isnan().all()
            assert made[[0, 2]].isfinite().all()
