"""The gated unit: its value, its gradient and its kernel."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tests.interpreter import checked
from tests.twotower.kernels.oracle import DTYPES, assert_no_worse, normal
from twotower.kernels.swiglu import swiglu, swiglu_reference, swiglu_triton

SMALL = {"BLOCK_T": 4, "BLOCK_F": 16}


def test_the_first_half_gates_the_second() -> None:
    gate_up_TI = torch.tensor([[0.0, 100.0, -100.0, 7.0, 2.0, 3.0]])
    torch.testing.assert_close(swiglu(gate_up_TI), torch.tensor([[0.0, 200.0, 0.0]]))


def test_its_gradient_is_that_of_the_formula() -> None:
    gate_up_TI = normal(3, 8, seed=0).requires_grad_()
    plain = functional.silu(gate_up_TI[:, :4]) * gate_up_TI[:, 4:]
    expected, ours = (torch.autograd.grad(y.square().sum(), gate_up_TI)[0] for y in (plain, swiglu(gate_up_TI)))
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=6, deadline=None)
@given(num_rows=st.integers(0, 9), width=st.sampled_from([8, 16, 40, 344]), seed=st.integers(0, 99))
def test_the_kernel_is_no_worse_than_torch(dtype: torch.dtype, num_rows: int, width: int, seed: int) -> None:
    gate_up_TI = (4 * normal(num_rows, 2 * width, seed=seed)).to(dtype)
    with checked(seed):
        made = swiglu_triton(gate_up_TI, SMALL)
    assert_no_worse(made, swiglu_reference, gate_up_TI)


def test_far_from_zero_it_is_all_or_nothing_and_a_nan_spoils_its_own_number() -> None:
    gate_up_TI = torch.ones(1, 16)
    gate_up_TI[0, :4] = torch.tensor([-1e4, 1e4, torch.nan, 0.0])
    with checked():
        for made in (swiglu_triton(gate_up_TI, SMALL)[0], swiglu(gate_up_TI)[0]):
            torch.testing.assert_close(made[:4], torch.tensor([0.0, 1e4, torch.nan, 0.0]), equal_nan=True)
            assert made[4:].isfinite().all()


def test_blocks_as_they_are_shipped_are_no_worse_than_torch() -> None:
    gate_up_TI = normal(9, 688, seed=0)
    with checked():
        made = swiglu_triton(gate_up_TI)
    assert_no_worse(made, swiglu_reference, gate_up_TI)
