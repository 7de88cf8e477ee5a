"""The norm of a residual stream: its value, its gradient and its kernel."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tests.interpreter import checked
from tests.twotower.kernels.oracle import DTYPES, assert_no_worse, normal
from twotower.kernels.rms_norm import (
    EPSILON,
    add_rms_norm,
    add_rms_norm_reference,
    add_rms_norm_triton,
    rms_norm,
    rms_norm_reference,
    rms_norm_triton,
)

SMALL = {"BLOCK_SIZE": 256}
SCALES = [1.0, 1e-4, 300.0]  # where epsilon counts, where it does not, and where squares leave half precision


@pytest.mark.parametrize("scale", [0.0, 1e-5, 1.0, 1e6])
def test_it_is_what_torch_says(scale: float) -> None:
    x_TD, weight_D = (scale * normal(5, 24, seed=0)).requires_grad_(), normal(24, seed=1).requires_grad_()
    ours, theirs = rms_norm(x_TD, weight_D), functional.rms_norm(x_TD, (24,), weight_D, EPSILON)
    torch.testing.assert_close(ours, theirs)
    for gradient, expected in zip(
        *(torch.autograd.grad(y.square().sum(), (x_TD, weight_D)) for y in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(gradient, expected)


def test_the_sum_is_handed_on() -> None:
    sum_TD, normed_TD = add_rms_norm(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 2.0]]), torch.tensor([1.0, 10.0]))
    assert sum_TD.tolist() == [[3.0, 4.0]]
    torch.testing.assert_close(normed_TD, torch.tensor([[3.0, 40.0]]) / 12.5**0.5)


def test_the_norm_can_be_of_a_narrower_type_than_the_sum() -> None:
    x_TD, added_TD, weight_D = normal(5, 32, seed=0), normal(5, 32, seed=1, dtype=torch.bfloat16), normal(32, seed=2)
    expected_TD = rms_norm(x_TD + added_TD, weight_D).bfloat16()
    for impl in (add_rms_norm, add_rms_norm_triton):
        with checked():
            sum_TD, normed_TD = impl(x_TD, added_TD, weight_D, torch.bfloat16)
        torch.testing.assert_close(sum_TD, x_TD + added_TD)
        torch.testing.assert_close(normed_TD, expected_TD)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=6, deadline=None)
@given(num_rows=st.integers(0, 9), width=st.sampled_from([16, 48, 128]), scale=st.sampled_from(SCALES), seed=st.integers(0, 99))
def test_the_kernel_is_no_worse_than_torch(dtype: torch.dtype, num_rows: int, width: int, scale: float, seed: int) -> None:
    x_TD, added_TD = ((scale * normal(num_rows, width, seed=seed + i)).to(dtype) for i in (0, 1))
    weight_D = normal(width, seed=seed + 2, dtype=dtype)
    with checked(seed):
        normed_TD = rms_norm_triton(x_TD, weight_D, SMALL)
        summed_TD, summed_normed_TD = add_rms_norm_triton(x_TD, added_TD, weight_D, options=SMALL)
    assert_no_worse(normed_TD, rms_norm_reference, x_TD, weight_D)
    assert torch.equal(summed_TD, x_TD + added_TD)
    assert_no_worse(summed_normed_TD, lambda *inputs: add_rms_norm_reference(*inputs)[1], x_TD, added_TD, weight_D)


def test_zeros_stay_and_a_nan_spoils_its_row_alone() -> None:
    x_TD = normal(3, 16, seed=0)
    x_TD[0], x_TD[1, 5] = 0.0, torch.nan
    with checked():
        for normed_TD in (rms_norm_triton(x_TD, torch.ones(16), SMALL), rms_norm(x_TD, torch.ones(16))):
            assert torch.equal(normed_TD[0], torch.zeros(16))
            assert normed_TD[1].isnan().all()
            assert normed_TD[2].isfinite().all()


@pytest.mark.parametrize("width", [128, 4096])
def test_blocks_as_they_are_shipped_are_no_worse_than_torch(width: int) -> None:
    """Of several rows, and of one that is wider than a block."""
    x_TD, weight_D = normal(20, width, seed=0), normal(width, seed=1)
    with checked():
        made = rms_norm_triton(x_TD, weight_D)
    assert_no_worse(made, rms_norm_reference, x_TD, weight_D)
