"""Keys and values are stored where they belong, and nothing else is touched."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.interpreter import checked
from tests.twotower.kernels.oracle import DTYPES, normal, tables
from twotower.kernels.paged_store import paged_store, paged_store_reference, paged_store_triton
from twotower.kernels.rotary import rotate_reference

PAGE, NUM_PAGES, LONGEST = 4, 5, 20
SMALL = {"BLOCK_ROWS": 4, "num_warps": 1, "num_stages": 1}


def drawn(num: int, num_heads: int, width: int, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """Keys and values beside each other, places in no order of which every third is none, and positions."""
    heads = normal(num, 2 * num_heads + 1, width, seed=seed, dtype=dtype)
    places_T = torch.randperm(NUM_PAGES * PAGE, generator=torch.Generator().manual_seed(seed))[:num].int()
    places_T[::3] = -1
    positions_T = torch.randint(LONGEST, (num,), generator=torch.Generator().manual_seed(seed + 1)).int()
    return heads[:, 1 : num_heads + 1], heads[:, num_heads + 1 :], places_T, positions_T


def pages(num_heads: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    both = normal(2, NUM_PAGES, num_heads, PAGE, width, seed=9, dtype=dtype)
    return both[0].clone(), both[1].clone()


def test_an_event_is_stored_in_its_place_and_its_key_turned() -> None:
    k_TGE, v_TGE, _, _ = drawn(2, 3, 8, torch.float32, 0)
    k_NGCE, v_NGCE = pages(3, 8, torch.float32)
    before = k_NGCE.clone()
    places_T, positions_T = torch.tensor([-1, 2 * PAGE + 3]), torch.tensor([0, 7])
    paged_store(k_TGE, v_TGE, k_NGCE, v_NGCE, places_T, positions_T, *tables(LONGEST, 8))
    turned_TGE = rotate_reference(k_TGE, *tables(LONGEST, 8), positions_T)
    assert torch.equal(k_NGCE[2, :, 3], turned_TGE[1])
    assert torch.equal(v_NGCE[2, :, 3], v_TGE[1])
    k_NGCE[2, :, 3] = before[2, :, 3]
    assert torch.equal(k_NGCE, before)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=6, deadline=None)
@given(
    num=st.integers(0, 20), num_heads=st.sampled_from([1, 2, 3]), width=st.sampled_from([16, 48]), seed=st.integers(0, 99),
    shipped=st.booleans(),
)  # fmt: skip
def test_the_kernel_stores_what_torch_does(
    dtype: torch.dtype, num: int, num_heads: int, width: int, seed: int, shipped: bool
) -> None:
    k_TGE, v_TGE, places_T, positions_T = drawn(num, num_heads, width, dtype, seed)
    ours, theirs = pages(num_heads, width, dtype), pages(num_heads, width, dtype)
    with checked(seed):
        paged_store_triton(
            k_TGE, v_TGE, *ours, places_T, positions_T, *tables(LONGEST, width), options=None if shipped else SMALL
        )
    paged_store_reference(k_TGE, v_TGE, *theirs, places_T, positions_T, *tables(LONGEST, width))
    torch.testing.assert_close(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
