"""The first half of a feed-forward layer: its value and its kernel."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.interpreter import checked
from tests.twotower.kernels.oracle import DTYPES, assert_no_worse, normal
from twotower.kernels.linear_swiglu import linear_swiglu, linear_swiglu_reference, linear_swiglu_triton

SMALL = {"BLOCK_T": 16, "BLOCK_U": 16, "TILE_BYTES": 1024}


def test_the_first_units_gate_the_others() -> None:
    made = linear_swiglu(torch.tensor([[1.0, 2.0]]), torch.tensor([[100.0, 0.0], [-100.0, 0.0], [0.0, 3.0], [0.0, 4.0]]))
    torch.testing.assert_close(made, torch.tensor([[600.0, 0.0]]))


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=6, deadline=None)
@given(
    num=st.integers(0, 20), width=st.sampled_from([16, 48]), num_units=st.sampled_from([8, 40, 64]), seed=st.integers(0, 99),
    shipped=st.booleans(),
)  # fmt: skip
def test_the_kernel_is_no_worse_than_torch(
    dtype: torch.dtype, num: int, width: int, num_units: int, seed: int, shipped: bool
) -> None:
    arguments = (normal(num, width, seed=seed, dtype=dtype), normal(2 * num_units, width, seed=seed + 1, dtype=dtype))
    with checked(seed):
        made = linear_swiglu_triton(*arguments, None if shipped else SMALL)
    assert_no_worse(made, linear_swiglu_reference, *arguments)


def test_many_rows_are_no_worse_than_torch() -> None:
    arguments = (normal(70, 32, seed=0), normal(160, 32, seed=1))
    with checked():
        made = linear_swiglu_triton(*arguments)
    assert_no_worse(made, linear_swiglu_reference, *arguments)
