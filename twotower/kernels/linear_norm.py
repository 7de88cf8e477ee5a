"""A linear layer whose result is added to a residual stream, and the norm of the sum. Only for serving: it has no gradient.

T: rows, F: width of what the layer reads, D: width of the stream
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from twotower.kernels.configurations import configuration, current_target
from twotower.kernels.dispatch import jit, run, tl, triton
from twotower.kernels.rms_norm import EPSILON, add_rms_norm, add_rms_norm_reference

MAX_WIDTH = 512  # a program holds whole rows of the stream
FEW = 64  # rows; for as many or fewer, blocks are small, so that there are several programs


def linear_add_norm(
    x_TD: Tensor, read_TF: Tensor, weight_DF: Tensor, norm_D: Tensor, normed_as: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The sum of `x_TD` and the layer's result, in the type of `x_TD`, and its norm, in the type `normed_as`."""
    if x_TD.shape[1] > MAX_WIDTH:
        return add_rms_norm(x_TD, functional.linear(read_TF, weight_DF), norm_D, normed_as)
    kernel, reference = (partial(impl, normed_as=normed_as) for impl in (linear_add_norm_triton, linear_add_norm_reference))
    fits = x_TD.shape[1] % 16 == read_TF.shape[1] % 8 == 0
    sum_TD, normed_TD = run(kernel, reference, x_TD, read_TF, weight_DF, norm_D, fits=fits)
    return sum_TD, normed_TD


def linear_add_norm_reference(
    x_TD: Tensor, read_TF: Tensor, weight_DF: Tensor, norm_D: Tensor, normed_as: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Torch reference of `linear_add_norm`."""
    return add_rms_norm_reference(x_TD, functional.linear(read_TF, weight_DF), norm_D, normed_as)


def linear_add_norm_triton(
    x_TD: Tensor,
    read_TF: Tensor,
    weight_DF: Tensor,
    norm_D: Tensor,
    normed_as: torch.dtype,
    options: dict[str, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Triton implementation of `linear_add_norm`. Rows are read once and written once."""
    (num_rows, width), num_read = x_TD.shape, read_TF.shape[1]
    for tensor in (x_TD, read_TF, weight_DF):
        assert tensor.is_contiguous()
    sum_TD, normed_TD = torch.empty_like(x_TD), torch.empty_like(x_TD, dtype=normed_as)
    options = options or configuration("linear_norm_few" if num_rows <= FEW else "linear_norm", current_target())
    block = max(triton.next_power_of_2(width), 16)
    block_t = max(options["BLOCK_SIZE"] // block, 16)  # a program sums whole rows in registers, and a product has 16 or more
    if num_rows:
        linear_norm_kernel[(triton.cdiv(num_rows, block_t),)](
            x_TD, read_TF, weight_DF, norm_D, sum_TD, normed_TD, num_rows, EPSILON,
            D=width, F=num_read, BLOCK_D=block, BLOCK_T=block_t, **with_block(options, block, read_TF),
        )  # fmt: skip
    return sum_TD, normed_TD


def with_block(options: dict[str, int], num_units: int, read_TF: Tensor) -> dict[str, int]:
    """The kernel's options with the number of columns, BLOCK_F, for which a tile of so many units takes at most TILE_BYTES."""
    rest = {name: value for name, value in options.items() if name not in ("TILE_BYTES", "BLOCK_SIZE")}
    most = triton.next_power_of_2(read_TF.shape[1])
    return rest | {"BLOCK_F": max(min(options["TILE_BYTES"] // (num_units * read_TF.element_size()), most), 16)}


@jit
def linear_norm_kernel(  # type: ignore[no-untyped-def]
    x_ptr, read_ptr, weight_ptr, norm_ptr, sum_ptr, normed_ptr, num_rows, epsilon,
    D: tl.constexpr, F: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_F: tl.constexpr,
) -> None:  # fmt: skip
    """One program computes some rows."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    column = tl.arange(0, BLOCK_D)
    is_row, is_column = row < num_rows, column < D
    x = multiplied(read_ptr, row, is_row, weight_ptr, column, is_column, F, BLOCK_T, BLOCK_D, BLOCK_F)
    mask = is_row[:, None] & is_column[None]
    place = row[:, None] * D + column[None]
    x += tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(sum_ptr + place, x.to(sum_ptr.dtype.element_ty), mask=mask)
    scale = tl.rsqrt(tl.sum(x * x, 1, keep_dims=True) / D + epsilon)
    norm = tl.load(norm_ptr + column, mask=is_column, other=0.0).to(tl.float32)[None]
    tl.store(normed_ptr + place, (x * scale * norm).to(normed_ptr.dtype.element_ty), mask=mask)


@jit
def multiplied(  # type: ignore[no-untyped-def]
    read_ptr, row, is_row, weight_ptr, unit, is_unit,
    F: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """What some units of a linear layer make of some rows, [T, U], in float32."""
    total = tl.zeros([BLOCK_T, BLOCK_U], tl.float32)
    for start in tl.range(0, F, BLOCK_F):
        column = start + tl.arange(0, BLOCK_F)
        is_column = (column < F)[None]
        read = tl.load(read_ptr + row[:, None] * F + column[None], mask=is_row[:, None] & is_column, other=0.0)
        weight = tl.load(weight_ptr + unit[:, None] * F + column[None], mask=is_unit[:, None] & is_column, other=0.0)
        total = tl.dot(read, tl.trans(weight), total, input_precision="ieee")
    return total
