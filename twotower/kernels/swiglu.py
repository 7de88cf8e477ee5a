"""SwiGLU, the gated unit between the two products of a feed-forward layer.

T: rows, F: width of the layer
"""

from torch import Tensor
from torch.nn import functional

from twotower.kernels.configurations import configuration, current_target
from twotower.kernels.dispatch import jit, run, tl, triton


def swiglu(gate_up_TI: Tensor) -> Tensor:
    """silu(gate) * up, [T, F], of rows [T, 2 F] that are gate and then up (Shazeer 2020, eq. 6). A NaN spoils its own number."""
    out_TF: Tensor = run(swiglu_triton, swiglu_reference, gate_up_TI, fits=gate_up_TI.shape[1] % 16 == 0)
    return out_TF


def swiglu_reference(gate_up_TI: Tensor) -> Tensor:
    """Torch reference of `swiglu`."""
    gate_TF, up_TF = gate_up_TI.chunk(2, 1)
    return functional.silu(gate_TF) * up_TF


def swiglu_triton(gate_up_TI: Tensor, options: dict[str, int] | None = None) -> Tensor:
    """Triton implementation of `swiglu`, in one pass."""
    num_rows, both = gate_up_TI.shape
    assert both % 16 == 0
    out_TF = gate_up_TI.new_empty(num_rows, both // 2)
    if not out_TF.numel():
        return out_TF
    options = options or configuration("swiglu", current_target())
    grid = (triton.cdiv(num_rows, options["BLOCK_T"]), triton.cdiv(both // 2, options["BLOCK_F"]))
    swiglu_kernel[grid](gate_up_TI.contiguous(), out_TF, num_rows, F=both // 2, **options)
    return out_TF


@jit
def swiglu_kernel(  # type: ignore[no-untyped-def]
    gate_up_ptr, out_ptr, num_rows,
    F: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_F: tl.constexpr,
) -> None:  # fmt: skip
    """One program computes one tile of the output."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)[:, None]
    column = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)[None]
    mask = (row < num_rows) & (column < F)
    gate = tl.load(gate_up_ptr + row * (2 * F) + column, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * (2 * F) + F + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * F + column, (gate / (1 + tl.exp(-gate)) * up).to(out_ptr.dtype.element_ty), mask=mask)
