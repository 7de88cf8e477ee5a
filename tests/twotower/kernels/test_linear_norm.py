"""A layer that adds to the residual stream, and the norm: its value and its kernel."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from tests.interpreter import checked
from tests.twotower.kernels.oracle import DTYPES, assert_no_worse, normal
from twotower.kernels.linear_norm import MAX_WIDTH, linear_add_norm, linear_add_norm_reference, linear_add_norm_triton
from twotower.kernels.rms_norm import EPSILON

SMALL = {"BLOCK_SIZE": 256, "TILE_BYTES": 2048}
in_torch: Callable[..., tuple[Tensor, Tensor]] = linear_add_norm_reference


@pytest.mark.parametrize("width", [8, MAX_WIDTH + 16])
def test_it_is_what_torch_says(width: int) -> None:
    x_TD, read_TF, weight_DF, norm_D = (
        normal(3, width, seed=0),
        normal(3, 4, seed=1),
        normal(width, 4, seed=2),
        normal(width, seed=3),
    )
    sum_TD, normed_TD = linear_add_norm(x_TD, read_TF, weight_DF, norm_D, torch.float32)
    torch.testing.assert_close(sum_TD, x_TD + read_TF @ weight_DF.T)
    torch.testing.assert_close(normed_TD, functional.rms_norm(sum_TD, (width,), norm_D, EPSILON))


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=6, deadline=None)
@given(
    num=st.integers(0, 20), width=st.sampled_from([16, 48]), num_read=st.sampled_from([8, 40, 64]), seed=st.integers(0, 99),
    shipped=st.booleans(),
)  # fmt: skip
def test_the_kernel_is_no_worse_than_torch(
    dtype: torch.dtype, num: int, width: int, num_read: int, seed: int, shipped: bool
) -> None:
    """The stream is float32; what the layer reads, its weight and the norm have the type of serving."""
    read_TF, weight_DF = normal(num, num_read, seed=seed + 1, dtype=dtype), normal(width, num_read, seed=seed + 2, dtype=dtype)
    arguments = (normal(num, width, seed=seed), read_TF, weight_DF, normal(width, seed=seed + 3))
    with checked(seed):
        sum_TD, normed_TD = linear_add_norm_triton(*arguments, dtype, None if shipped else SMALL)
    assert_no_worse(sum_TD, lambda x, *rest: in_torch(x, *rest, normed_as=dtype)[0], *arguments)
    assert normed_TD.dtype == dtype
    torch.testing.assert_close(normed_TD, linear_add_norm_reference(*arguments, dtype)[1], rtol=2e-2, atol=1e-2)
    if dtype == torch.float32:
        assert_no_worse(normed_TD, lambda x, *rest: in_torch(x, *rest, normed_as=x.dtype)[1], *arguments)


def test_many_rows_are_no_worse_than_torch() -> None:
    arguments = (normal(70, 32, seed=0), normal(70, 40, seed=1), normal(32, 40, seed=2), normal(32, seed=3))
    with checked():
        _, normed_TD = linear_add_norm_triton(*arguments, torch.float32)
    assert_no_worse(normed_TD, lambda x, *rest: in_torch(x, *rest, normed_as=x.dtype)[1], *arguments)


def test_a_nan_spoils_its_row_alone() -> None:
    arguments = (normal(20, 16, seed=0), normal(20, 16, seed=1), normal(16, 16, seed=2), normal(16, seed=3))
    arguments[1][3, 5] = torch.nan
    with checked():
        sum_TD, normed_TD = linear_add_norm_triton(*arguments, torch.float32)
    for made in (sum_TD, normed_TD):
        assert made.isnan().all(1).nonzero().flatten().tolist() == made.isnan().any(1).nonzero().flatten().tolist() == [3]
