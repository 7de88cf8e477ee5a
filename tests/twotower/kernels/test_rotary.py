"""Rotary positions: what they promise, and their kernel."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.interpreter import checked
from tests.twotower.kernels.oracle import DTYPES, assert_no_worse, normal, tables
from twotower.kernels.rotary import rotate, rotate_reference, rotate_triton

SMALL = {"BLOCK_ROWS": 16}


def test_dot_products_depend_on_distance_alone() -> None:
    cos_LP, sin_LP = tables(12, 8)
    q_THE, k_TGE = (normal(8, seed=seed).expand(12, 1, 8) for seed in (0, 1))
    q_TE, k_TE = (rotate(x, cos_LP, sin_LP, torch.arange(12))[:, 0] for x in (q_THE, k_TGE))
    dots = q_TE @ k_TE.T
    torch.testing.assert_close(dots[0, 3], dots[7, 10], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(dots[0, 3], dots[0, 4])


def test_a_quarter_turn_swaps_the_halves() -> None:
    x_TNE = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    turned = rotate(x_TNE, torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([0]))
    assert turned.tolist() == [[[-3.0, -4.0, 1.0, 2.0]]]


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=6, deadline=None)
@given(num_rows=st.integers(0, 40), num_heads=st.integers(1, 3), width=st.sampled_from([16, 32, 48]), seed=st.integers(0, 99))
def test_the_kernel_is_no_worse_than_torch(dtype: torch.dtype, num_rows: int, num_heads: int, width: int, seed: int) -> None:
    """Rows are parts of wider ones, as keys are of what one product makes of an event."""
    wide = normal(num_rows, num_heads + 2, width, seed=seed, dtype=dtype)
    x_TNE = wide[:, 1:-1]
    positions_T = torch.randint(9, (num_rows,), generator=torch.Generator().manual_seed(seed))
    with checked(seed):
        made = rotate_triton(x_TNE, *tables(9, width), positions_T, SMALL)
    assert_no_worse(made, rotate_reference, x_TNE, *tables(9, width), positions_T)


def test_blocks_as_they_are_shipped_are_no_worse_than_torch() -> None:
    x_TNE, positions_T = normal(70, 2, 32, seed=0), torch.arange(70) % 9
    with checked():
        made = rotate_triton(x_TNE, *tables(9, 32), positions_T)
    assert_no_worse(made, rotate_reference, x_TNE, *tables(9, 32), positions_T)
