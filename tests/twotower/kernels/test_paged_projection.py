"""Keys and values are stored where they belong and nothing else is touched; queries are handed on."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.interpreter import checked
from tests.twotower.kernels.oracle import DTYPES, assert_no_worse, normal, tables
from twotower.kernels.paged_projection import paged_projection, paged_projection_reference, paged_projection_triton
from twotower.kernels.rotary import rotate_reference

PAGE, NUM_PAGES, LONGEST, WIDTH = 4, 5, 20, 32
SMALL = {"BLOCK_T": 16, "BLOCK_U": 64, "TILE_BYTES": 1024, "num_warps": 1, "num_stages": 1}


def drawn(
    num: int, num_heads: int, num_kv_heads: int, width: int, dtype: torch.dtype, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What the layer reads, its weight, pages, places in no order of which every third is none, positions, and the tables."""
    x_TD = normal(num, WIDTH, seed=seed, dtype=dtype)
    weight_UD = normal((num_heads + 2 * num_kv_heads) * width, WIDTH, seed=seed + 1, dtype=dtype)
    both = normal(2, NUM_PAGES, num_kv_heads, PAGE, width, seed=9, dtype=dtype)
    places_T = torch.randperm(NUM_PAGES * PAGE, generator=torch.Generator().manual_seed(seed))[:num].int()
    places_T[::3] = -1
    positions_T = torch.randint(LONGEST, (num,), generator=torch.Generator().manual_seed(seed + 1)).int()
    return x_TD, weight_UD, both[0].clone(), both[1].clone(), places_T, positions_T, *tables(LONGEST, width)


def stored(*tensors: Tensor) -> Tensor:
    """Both caches after the reference."""
    x_TD, weight_UD, k_NGCE, v_NGCE, *rest = tensors
    caches = [k_NGCE.clone(), v_NGCE.clone()]
    paged_projection_reference(x_TD, weight_UD, *caches, *rest)
    return torch.stack(caches)


def test_an_event_is_stored_in_its_place_and_its_key_turned() -> None:
    x_TD, weight_UD, k_NGCE, v_NGCE, *_ = drawn(2, 2, 1, 8, torch.float32, 0)
    angles = tables(LONGEST, 8)
    before = k_NGCE.clone()
    places_T, positions_T = torch.tensor([-1, 2 * PAGE + 3]), torch.tensor([0, 7])
    q_THE = paged_projection(x_TD, weight_UD, k_NGCE, v_NGCE, places_T, positions_T, *angles)
    heads = (x_TD @ weight_UD.T).view(2, 4, 8)
    torch.testing.assert_close(q_THE, heads[:, :2])
    torch.testing.assert_close(k_NGCE[2, :, 3], rotate_reference(heads[:, 2:3], *angles, positions_T)[1])
    torch.testing.assert_close(v_NGCE[2, :, 3], heads[1, 3:])
    k_NGCE[2, :, 3] = before[2, :, 3]
    assert torch.equal(k_NGCE, before)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=6, deadline=None)
@given(
    num=st.integers(0, 20), heads=st.sampled_from([(1, 1), (4, 2), (3, 3)]), width=st.sampled_from([16, 48]),
    seed=st.integers(0, 99), shipped=st.booleans(),
)  # fmt: skip
def test_the_kernel_is_no_worse_than_torch(
    dtype: torch.dtype, num: int, heads: tuple[int, int], width: int, seed: int, shipped: bool
) -> None:
    arguments = drawn(num, *heads, width, dtype, seed)
    x_TD, weight_UD, k_NGCE, v_NGCE, places_T, positions_T, cos_LP, sin_LP = arguments
    rest, options = (places_T, positions_T, cos_LP, sin_LP), None if shipped else SMALL
    caches, untouched = (k_NGCE.clone(), v_NGCE.clone()), torch.ones(NUM_PAGES * PAGE, dtype=torch.bool)
    with checked(seed):
        q_THE = paged_projection_triton(x_TD, weight_UD, *caches, *rest, options=options)
    assert_no_worse(q_THE, paged_projection_reference, *arguments)
    assert_no_worse(torch.stack(caches), stored, *arguments)
    untouched[places_T[places_T >= 0].long()] = False
    for cache, before in zip(caches, (k_NGCE, v_NGCE), strict=True):
        rows, rows_before = (x.transpose(1, 2).flatten(0, 1)[untouched] for x in (cache, before))
        assert torch.equal(rows, rows_before)


def test_many_rows_are_no_worse_than_torch() -> None:
    _, weight_UD, k_NGCE, v_NGCE, *_ = drawn(1, 2, 1, 16, torch.float32, 0)
    x_TD, none_T, angles = normal(70, WIDTH, seed=1), torch.full((70,), -1), tables(LONGEST, 16)
    with checked():
        q_THE = paged_projection_triton(x_TD, weight_UD, k_NGCE, v_NGCE, none_T, none_T, *angles)
    assert_no_worse(q_THE, paged_projection_reference, x_TD, weight_UD, k_NGCE, v_NGCE, none_T, none_T, *angles)
