"""The first half of a feed-forward layer: a linear layer and SwiGLU. Only for serving: it has no gradient.

T: rows, D: width of what the layer reads, F: width of the layer, I: 2 F
"""

from torch import Tensor
from torch.nn import functional

from twotower.kernels.configurations import configuration, current_target
from twotower.kernels.dispatch import jit, run, tl, triton
from twotower.kernels.linear_norm import FEW, with_block
from twotower.kernels.swiglu import swiglu_reference


def linear_swiglu(x_TD: Tensor, weight_ID: Tensor) -> Tensor:
    """silu(gate) * up, [T, F], where the first F rows of the weight make the gate (Shazeer 2020, eq. 6)."""
    fits = x_TD.shape[1] % 16 == len(weight_ID) % 16 == 0
    out_TF: Tensor = run(linear_swiglu_triton, linear_swiglu_reference, x_TD, weight_ID, fits=fits)
    return out_TF


def linear_swiglu_reference(x_TD: Tensor, weight_ID: Tensor) -> Tensor:
    """Torch reference of `linear_swiglu`."""
    return swiglu_reference(functional.linear(x_TD, weight_ID))


def linear_swiglu_triton(x_TD: Tensor, weight_ID: Tensor, options: dict[str, int] | None = None) -> Tensor:
    """Triton implementation of `linear_swiglu`. Gate and up-projection are never written."""
    (num_rows, width), num_units = x_TD.shape, len(weight_ID) // 2
    for tensor in (x_TD, weight_ID):
        assert tensor.is_contiguous()
    out_TF = x_TD.new_empty(num_rows, num_units)
    options = options or configuration("linear_swiglu_few" if num_rows <= FEW else "linear_swiglu", current_target())
    if num_rows:
        linear_swiglu_kernel[(triton.cdiv(num_rows, options["BLOCK_T"]), triton.cdiv(num_units, options["BLOCK_U"]))](
            x_TD, weight_ID, out_TF, num_rows, D=width, F=num_units, **with_block(options, options["BLOCK_U"], x_TD)
        )
    return out_TF


@jit
def linear_swiglu_kernel(  # type: ignore[no-untyped-def]
    x_ptr, weight_ptr, out_ptr, num_rows,
    D: tl.constexpr, F: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_F: tl.constexpr,
) -> None:  # fmt: skip
    """One program computes one tile of the output."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    unit = tl.program_id(1) * BLOCK_U + tl.arange(0, BLOCK_U)
    is_row, is_unit = row < num_rows, unit < F
    gate, up = multiplied_twice(x_ptr, row, is_row, weight_ptr, unit, is_unit, F, D, BLOCK_T, BLOCK_U, BLOCK_F)
    made = (gate / (1 + tl.exp(-gate)) * up).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row[:, None] * F + unit[None], made, mask=is_row[:, None] & is_unit[None])


@jit
def multiplied_twice(  # type: ignore[no-untyped-def]
    x_ptr, row, is_row, weight_ptr, unit, is_unit, APART: tl.constexpr,
    D: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """What some units of a linear layer make of some rows, and what those that come APART later do: [T, U] each, in float32."""
    first = tl.zeros([BLOCK_T, BLOCK_U], tl.float32)
    second = tl.zeros([BLOCK_T, BLOCK_U], tl.float32)
    for start in tl.range(0, D, BLOCK_F):
        column = start + tl.arange(0, BLOCK_F)
        is_column = (column < D)[None]
        mask, place = is_unit[:, None] & is_column, unit[:, None] * D + column[None]
        x = tl.load(x_ptr + row[:, None] * D + column[None], mask=is_row[:, None] & is_column, other=0.0)
        first_weight = tl.load(weight_ptr + place, mask=mask, other=0.0)
        second_weight = tl.load(weight_ptr + APART * D + place, mask=mask, other=0.0)
        first = tl.dot(x, tl.trans(first_weight), first, input_precision="ieee")
        second = tl.dot(x, tl.trans(second_weight), second, input_precision="ieee")
    return first, second
