"""Rotary positions: pairs of numbers of a query or key are rotated by angles that grow with the position of its event.

T: rows, N: heads, E: head width, P: half of it, L: positions of the tables
"""

import torch
from torch import Tensor

from twotower.kernels.configurations import configuration, current_target
from twotower.kernels.dispatch import jit, run, tl, triton


def rotate(x_TNE: Tensor, cos_LP: Tensor, sin_LP: Tensor, positions_T: Tensor) -> Tensor:
    """Rows rotated by the angles of their positions (Su et al. 2021, eq. 34, the halves of a head paired), in their own dtype.

    Heads lie side by side; rows may be parts of wider ones.
    """
    turned_TNE: Tensor = run(rotate_triton, rotate_reference, x_TNE, cos_LP, sin_LP, positions_T, fits=x_TNE.shape[2] % 16 == 0)
    return turned_TNE


def rotate_reference(x_TNE: Tensor, cos_LP: Tensor, sin_LP: Tensor, positions_T: Tensor) -> Tensor:
    """Torch reference of `rotate`."""
    return turn(x_TNE, cos_LP[positions_T][:, None], sin_LP[positions_T][:, None])


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the last axis by angles that broadcast over the other axes."""
    first, second = x.chunk(2, -1)
    turned = [torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)]
    return torch.cat(turned, -1).to(x.dtype)


def rotate_triton(
    x_TNE: Tensor, cos_LP: Tensor, sin_LP: Tensor, positions_T: Tensor, options: dict[str, int] | None = None
) -> Tensor:
    """Triton implementation of `rotate`, in one pass."""
    num_rows, num_heads, width = x_TNE.shape
    assert x_TNE.stride()[1:] == (width, 1)
    assert x_TNE.stride(0) % 16 == 0
    out_TNE = x_TNE.new_empty(x_TNE.shape)
    options = options or configuration("rotate", current_target())
    rotate_kernel[(triton.cdiv(num_rows * num_heads, options["BLOCK_ROWS"]),)](
        x_TNE, cos_LP, sin_LP, positions_T, out_TNE, num_rows * num_heads, x_TNE.stride(0),
        N=num_heads, E=width, BLOCK_E=triton.next_power_of_2(width), **options,
    )  # fmt: skip
    return out_TNE


@jit
def rotate_kernel(  # type: ignore[no-untyped-def]
    x_ptr, cos_ptr, sin_ptr, positions_ptr, out_ptr, num_rows, x_stride,
    N: tl.constexpr, E: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_ROWS: tl.constexpr,
) -> None:  # fmt: skip
    """One program rotates some rows of heads."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.arange(0, BLOCK_E)[None]
    mask = (row < num_rows)[:, None] & (column < E)
    position = tl.load(positions_ptr + row // N, mask=row < num_rows, other=0)
    turned = load_turned(x_ptr + (row // N * x_stride + row % N * E)[:, None], cos_ptr, sin_ptr, position, column, mask, E)
    tl.store(out_ptr + row[:, None] * E + column, turned.to(out_ptr.dtype.element_ty), mask=mask)


@jit
def load_turned(  # type: ignore[no-untyped-def]
    rows_ptr, cos_ptr, sin_ptr, position, column, mask,
    E: tl.constexpr,
):  # fmt: skip
    """Rotate rows of one head in float32. The other half is loaded again, which costs less than moving it between threads."""
    x = tl.load(rows_ptr + column, mask=mask, other=0.0).to(tl.float32)
    other = tl.load(rows_ptr + (column + E // 2) % E, mask=mask, other=0.0).to(tl.float32)
    angle = position[:, None] * (E // 2) + column % (E // 2)
    cos = tl.load(cos_ptr + angle, mask=mask, other=0.0)
    sin = tl.load(sin_ptr + angle, mask=mask, other=0.0)
    return x * cos + tl.where(column < E // 2, -other, other) * sin
