"""Attention of new events to a paged cache: it is that of the whole history, wherever its pages lie."""

from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.interpreter import checked
from tests.twotower.kernels.oracle import DTYPES, assert_no_worse, normal, tables
from twotower.kernels.packed_attention import Packing, packed_attention
from twotower.kernels.paged_attention import paged_attention, paged_attention_reference, paged_attention_triton

PAGE = 16
LONGEST = 3 * PAGE
LENGTHS = [0, 1, 2, PAGE - 1, PAGE, PAGE + 1, LONGEST]
SMALL = {"BLOCK_ROWS": 16, "BLOCK_KEYS": 16, "num_warps": 1, "num_stages": 1}
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int]


def paged(x_SGE: Tensor, lengths: list[int], pages_BM: Tensor) -> Tensor:
    """Rows of histories laid end to end, put where the table says; all else is NaN."""
    x_NGCE = torch.full((int(pages_BM.max()) + 1, x_SGE.shape[1], PAGE, x_SGE.shape[2]), torch.nan, dtype=x_SGE.dtype)
    for b, rows in enumerate(torch.split(x_SGE, lengths)):
        for start in range(0, lengths[b], PAGE):
            part = rows[start : start + PAGE]
            x_NGCE[pages_BM[b, start // PAGE], :, : len(part)] = part.transpose(0, 1)
    return x_NGCE


def table(lengths: list[int], seed: int = 0) -> Tensor:
    """A table whose pages are in no order; where a history has none it says -1."""
    order = torch.randperm(3 * len(lengths) + 1, generator=torch.Generator().manual_seed(seed))
    pages_BM = order[:-1].view(-1, 3).int()
    for b, length in enumerate(lengths):
        pages_BM[b, -(-length // PAGE) :] = -1
    if not sum(lengths):
        pages_BM[0, 0] = 0
    return pages_BM


def drawn(
    lengths: list[int], counts: list[int], heads: tuple[int, int], width: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Inputs, Tensor, Tensor]:
    """What is asked, and the keys and values of all histories end to end."""
    num_heads, num_kv_heads = heads
    q_THE = normal(sum(counts), num_heads + 1, width, seed=seed, dtype=dtype)[:, :num_heads]
    both = normal(sum(lengths), 2 * num_kv_heads, width, seed=seed + 1, dtype=dtype)
    k_SGE, v_SGE = both[:, :num_kv_heads], both[:, num_kv_heads:]
    pages_BM = table(lengths, seed)
    k_NGCE, v_NGCE = (paged(x, lengths, pages_BM) for x in (k_SGE, v_SGE))
    numbers = (torch.tensor(x, dtype=torch.int32) for x in (lengths, [0, *accumulate(counts)]))
    lengths_B, offsets_F = numbers
    inputs = (q_THE, k_NGCE, v_NGCE, pages_BM, lengths_B, offsets_F, *tables(LONGEST, width), max(counts))
    return inputs, k_SGE, v_SGE


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("counts", [[0, 1, 1, 1, 1, 1, 1], [0, 1, 2, 3, PAGE, PAGE, LONGEST], [0, 0, 1, 0, 2, 17, 40]])
def test_it_is_packed_attention_of_the_last_events(counts: list[int], num_kv_heads: int) -> None:
    inputs, k_SGE, v_SGE = drawn(LENGTHS, counts, (4, num_kv_heads), 8)
    packing = Packing(tuple(counts), tuple(LENGTHS), torch.device("cpu"))
    expected = packed_attention(inputs[0], k_SGE, v_SGE, *tables(LONGEST, 8), packing)
    torch.testing.assert_close(paged_attention(*inputs), expected)


def test_it_is_zero_in_a_history_without_events() -> None:
    inputs, _, _ = drawn([0, 3], [1, 1], (2, 1), 16)
    with checked():
        for made in (paged_attention(*inputs), paged_attention_triton(*inputs)):
            assert torch.equal(made[0], torch.zeros(2, 16))
            assert made[1].abs().min() > 0


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=8, deadline=None)
@given(
    histories=st.lists(st.tuples(st.sampled_from(LENGTHS), st.sampled_from(LENGTHS)), min_size=1, max_size=4),
    num_kv_heads=st.sampled_from([1, 2, 4]), width=st.sampled_from([16, 32, 48]), seed=st.integers(0, 99),
    single=st.booleans(),
)  # fmt: skip
def test_the_kernel_is_no_worse_than_torch(
    dtype: torch.dtype, histories: list[tuple[int, int]], num_kv_heads: int, width: int, seed: int, single: bool
) -> None:
    lengths = [length for length, _ in histories]
    counts = [1 if single else min(number) for number in histories]  # one event is asked of an empty history too
    inputs, _, _ = drawn(lengths, counts, (4, num_kv_heads), width, dtype, seed)
    with checked(seed):
        made = paged_attention_triton(*inputs, options=SMALL)
    assert_no_worse(made, paged_attention_reference, *inputs)


@pytest.mark.parametrize("counts", [[1, 1, 1], [3, 17, 2]])
def test_a_nan_stays_in_its_history(counts: list[int]) -> None:
    inputs, _, _ = drawn([3, 20, 5], counts, (2, 1), 16)
    inputs[2][inputs[3][1, 0]] = torch.nan
    first, second = counts[0], counts[0] + counts[1]
    with checked():
        for made in (paged_attention_triton(*inputs), paged_attention(*inputs)):
            assert made[first:second].isnan().all()
            assert made[:first].isfinite().all()
            assert made[second:].isfinite().all()
