"""Causal attention of histories laid end to end: what it promises, its gradient and its kernel."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.interpreter import checked
from tests.twotower.kernels.oracle import DTYPES, assert_no_worse, normal, tables
from twotower.kernels.packed_attention import (
    Packing,
    packed_attention,
    packed_attention_reference,
    packed_attention_triton,
)
from twotower.kernels.rotary import rotate

SMALL = {"BLOCK_ROWS": 16, "BLOCK_KEYS": 16}
CPU = torch.device("cpu")
LONGEST = 70


def drawn(
    packing: Packing, num_heads: int, num_kv_heads: int, width: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values that lie beside each other, as one product makes them."""
    q_THE = normal(sum(packing.num_queries), num_heads + 1, width, seed=0, dtype=dtype)[:, :num_heads]
    both = normal(sum(packing.num_keys), 2 * num_kv_heads, width, seed=1, dtype=dtype)
    return q_THE, both[:, :num_kv_heads], both[:, num_kv_heads:]


def one_by_one(q_THE: Tensor, k_SGE: Tensor, v_SGE: Tensor, cos_LP: Tensor, sin_LP: Tensor, packing: Packing) -> Tensor:
    """The formula, written out for each query and head."""
    turned_THE = rotate(q_THE, cos_LP, sin_LP, packing.positions_T)
    shared, mixed_THE = q_THE.shape[1] // k_SGE.shape[1], torch.zeros_like(q_THE)
    query = first = 0
    for num_queries, num_keys in zip(packing.num_queries, packing.num_keys, strict=True):
        for stop in range(num_keys - num_queries + 1, num_keys + 1):
            for head in range(q_THE.shape[1]):
                k_CE, v_CE = (x[first : first + stop, head // shared] for x in (k_SGE, v_SGE))
                mixed_THE[query, head] = (k_CE @ turned_THE[query, head] * q_THE.shape[2] ** -0.5).softmax(0) @ v_CE
            query += 1
        first += num_keys
    return mixed_THE


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize(
    ("num_queries", "num_keys"),
    [
        ((5, 5), (5, 5)),
        ((3, 0, 1, 4), (3, 0, 1, 4)),
        ((2, 2), (6, 6)),
        ((1, 3, 0), (9, 4, 2)),
        ((1, 1), (3, 3)),
        ((0,), (3,)),
        ((), ()),
    ],
)
def test_it_is_the_formula(num_queries: tuple[int, ...], num_keys: tuple[int, ...], num_kv_heads: int) -> None:
    """Even and uneven histories, whole ones and ones read on, some without an event."""
    packing = Packing(num_queries, num_keys, CPU)
    inputs = drawn(packing, 4, num_kv_heads, 8)
    torch.testing.assert_close(packed_attention(*inputs, *tables(9, 8), packing), one_by_one(*inputs, *tables(9, 8), packing))


@pytest.mark.parametrize("lengths", [(4, 4), (1, 5)])
def test_its_gradient_is_that_of_the_formula(lengths: tuple[int, ...]) -> None:
    packing = Packing.whole(lengths, CPU)
    q_THE, k_SGE, v_SGE = (x.detach().clone().requires_grad_() for x in drawn(packing, 4, 2, 8))
    ours, plain = (
        torch.autograd.grad(attend(q_THE, k_SGE, v_SGE, *tables(9, 8), packing).square().sum(), (q_THE, k_SGE, v_SGE))
        for attend in (packed_attention, one_by_one)
    )
    for gradient, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(gradient, expected)


def test_more_queries_than_keys_is_our_own_bug() -> None:
    with pytest.raises(AssertionError):
        Packing((2,), (1,), CPU)


@st.composite
def packings(draw: st.DrawFn) -> Packing:
    num_keys = draw(st.lists(st.sampled_from([0, 1, 2, 15, 16, 17, 33, LONGEST]), min_size=1, max_size=3))
    return Packing(tuple(draw(st.sampled_from([n, min(n, 1), n // 2])) for n in num_keys), tuple(num_keys), CPU)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=8, deadline=None)
@given(packing=packings(), num_kv_heads=st.sampled_from([1, 2, 4]), width=st.sampled_from([16, 32, 48]), seed=st.integers(0, 99))
def test_the_kernel_is_no_worse_than_torch(
    dtype: torch.dtype, packing: Packing, num_kv_heads: int, width: int, seed: int
) -> None:
    inputs = (*drawn(packing, 4, num_kv_heads, width, dtype), *tables(LONGEST, width), packing)
    with checked(seed):
        made = packed_attention_triton(*inputs, SMALL)
    assert_no_worse(made, packed_attention_reference, *inputs)


def test_the_last_row_of_a_block_sees_its_own_key_though_a_tile_of_keys_begins_with_it() -> None:
    packing = Packing((20,), (21,), CPU)
    inputs = (*drawn(packing, 1, 1, 16), *tables(21, 16), packing)
    with checked():
        made = packed_attention_triton(*inputs, SMALL)
    assert_no_worse(made, packed_attention_reference, *inputs)


def test_scores_of_any_size_stay_finite() -> None:
    packing = Packing.whole([20], CPU)
    q_THE, k_SGE, v_SGE = drawn(packing, 2, 1, 16)
    with checked():
        made = packed_attention_triton(300 * q_THE, 300 * k_SGE, v_SGE, *tables(20, 16), packing, SMALL)
    torch.testing.assert_close(
        made, packed_attention(300 * q_THE, 300 * k_SGE, v_SGE, *tables(20, 16), packing), rtol=1e-2, atol=1e-2
    )


def test_a_nan_stays_in_its_history() -> None:
    packing = Packing.whole([3, 4, 3], CPU)
    inputs = drawn(packing, 2, 1, 16)
    for x in inputs:
        x[5] = torch.nan
    with checked():
        for made in (
            packed_attention_triton(*inputs, *tables(4, 16), packing, SMALL),
            packed_attention(*inputs, *tables(4, 16), packing),
        ):
            assert made[5].isnan().all()
            assert made[[0, 1, 2, 7, 8, 9]].isfinite().all()


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_as_they_are_shipped_are_no_worse_than_torch(dtype: torch.dtype) -> None:
    packing = Packing((130, 0, 1, 200, 40), (130, 7, 64, 256, 104), CPU)
    inputs = (*drawn(packing, 8, 2, 64, dtype), *tables(256, 64), packing)
    with checked():
        made = packed_attention_triton(*inputs)
    assert_no_worse(made, packed_attention_reference, *inputs)
