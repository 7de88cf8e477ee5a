"""Root-mean-square norm, optionally with the addition before it in a residual stream.

T: rows, D: width
"""

from functools import partial

import torch
from torch import Tensor

from twotower.kernels.configurations import configuration, current_target
from twotower.kernels.dispatch import jit, run, tl, triton

EPSILON = torch.finfo(torch.float32).eps  # of the mean square; torch's own for single precision


def rms_norm(x_TD: Tensor, weight_D: Tensor) -> Tensor:
    """Rows scaled to unit root-mean-square, times weight (Zhang & Sennrich 2019, eq. 4).

    Rows of zeros stay what they are; a NaN makes NaN of its row.
    """
    normed_TD: Tensor = run(rms_norm_triton, rms_norm_reference, x_TD, weight_D, fits=x_TD.shape[1] % 16 == 0)
    return normed_TD


def add_rms_norm(x_TD: Tensor, added_TD: Tensor, weight_D: Tensor, normed_as: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """The sum of two rows, in the type of `x_TD`, and its norm, in the type `normed_as` or else that of the sum."""
    kernel, reference = partial(add_rms_norm_triton, normed_as=normed_as), partial(add_rms_norm_reference, normed_as=normed_as)
    sum_TD, normed_TD = run(kernel, reference, x_TD, added_TD, weight_D, fits=x_TD.shape[1] % 16 == 0)
    return sum_TD, normed_TD


def rms_norm_reference(x_TD: Tensor, weight_D: Tensor) -> Tensor:
    """Torch reference of the norm: torch's own reads the rows three times. Half precision is summed in single precision."""
    wide_TD, width = x_TD.float() if x_TD.element_size() == 2 else x_TD, x_TD.shape[1]
    norm_T1 = torch.linalg.vector_norm(wide_TD, dim=1, keepdim=True)
    scale_T1 = (norm_T1 * norm_T1).add_(width * EPSILON).rsqrt_()
    return wide_TD.mul(scale_T1).mul_(weight_D * width**0.5).to(x_TD.dtype)


def add_rms_norm_reference(
    x_TD: Tensor, added_TD: Tensor, weight_D: Tensor, normed_as: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Torch reference of the sum and its norm."""
    sum_TD = x_TD + added_TD
    return sum_TD, rms_norm_reference(sum_TD, weight_D).to(normed_as or sum_TD.dtype)


def rms_norm_triton(x_TD: Tensor, weight_D: Tensor, options: dict[str, int] | None = None) -> Tensor:
    """Triton implementation of the norm, in one pass."""
    normed_TD = _empty(x_TD)
    _launch(x_TD, None, weight_D, None, normed_TD, options)
    return normed_TD


def add_rms_norm_triton(
    x_TD: Tensor,
    added_TD: Tensor,
    weight_D: Tensor,
    normed_as: torch.dtype | None = None,
    options: dict[str, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Triton implementation of the sum and its norm, in one pass over the rows."""
    sum_TD, normed_TD = _empty(x_TD), _empty(x_TD, normed_as)
    _launch(x_TD, added_TD, weight_D, sum_TD, normed_TD, options)
    return sum_TD, normed_TD


def _empty(x_TD: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty_like(x_TD, dtype=dtype, memory_format=torch.contiguous_format)


def _launch(
    x_TD: Tensor,
    added_TD: Tensor | None,
    weight_D: Tensor,
    sum_TD: Tensor | None,
    normed_TD: Tensor,
    options: dict[str, int] | None,
) -> None:
    num_rows, width = x_TD.shape
    assert width % 16 == 0
    assert added_TD is None or added_TD.shape == x_TD.shape
    if not num_rows:
        return
    options = options or configuration("rms_norm", current_target())
    block = triton.next_power_of_2(width)
    rms_norm_kernel[(triton.cdiv(num_rows, max(options["BLOCK_SIZE"] // block, 1)),)](
        x_TD.contiguous(), None if added_TD is None else added_TD.contiguous(), weight_D, sum_TD, normed_TD, num_rows, EPSILON,
        D=width, BLOCK_D=block, **options,
    )  # fmt: skip


@jit
def rms_norm_kernel(  # type: ignore[no-untyped-def]
    x_ptr, added_ptr, weight_ptr, sum_ptr, normed_ptr, num_rows, epsilon,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_SIZE: tl.constexpr,
) -> None:  # fmt: skip
    """One program norms some rows, after an addition if there is one."""
    BLOCK_T: tl.constexpr = max(BLOCK_SIZE // BLOCK_D, 1)
    row = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)[:, None]
    column = tl.arange(0, BLOCK_D)[None]
    mask = (row < num_rows) & (column < D)
    x = tl.load(x_ptr + row * D + column, mask=mask, other=0.0).to(tl.float32)
    if added_ptr is not None:
        x += tl.load(added_ptr + row * D + column, mask=mask, other=0.0).to(tl.float32)
        tl.store(sum_ptr + row * D + column, x.to(sum_ptr.dtype.element_ty), mask=mask)
    scale = tl.rsqrt(tl.sum(x * x, 1, keep_dims=True) / D + epsilon)
    weight = tl.load(weight_ptr + column, mask=column < D, other=0.0).to(tl.float32)
    tl.store(normed_ptr + row * D + column, (x * scale * weight).to(normed_ptr.dtype.element_ty), mask=mask)
