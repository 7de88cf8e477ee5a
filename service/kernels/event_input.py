"""What the first layer reads of new events: item, numbers and hashed context of each added up, and their norm.

T: events, D: width, S: hash slots, W: dense features
"""

from functools import partial

import torch
from torch import Tensor

from service.kernels.item_rows import ItemRows, load_vectors
from twotower.kernels.configurations import configuration, current_target
from twotower.kernels.dispatch import jit, run, tl, triton
from twotower.kernels.rms_norm import EPSILON, rms_norm_reference
from twotower.model.contextualizer import Block, Contextualizer


def event_input(
    model: Contextualizer,
    items: ItemRows,
    rows_T: Tensor,
    slots_TS: Tensor,
    weights_TS: Tensor,
    dense_TW: Tensor,
    normed_as: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The residual stream [T, D] before the first layer, and its norm for that layer in the type `normed_as`."""
    kernel, reference = (partial(impl, model, items, normed_as=normed_as) for impl in (event_input_triton, event_input_reference))
    x_TD, normed_TD = run(kernel, reference, rows_T, slots_TS, weights_TS, dense_TW)
    return x_TD, normed_TD


def event_input_reference(
    model: Contextualizer,
    items: ItemRows,
    rows_T: Tensor,
    slots_TS: Tensor,
    weights_TS: Tensor,
    dense_TW: Tensor,
    normed_as: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Torch reference of `event_input`, by the operations of the model."""
    context_TD = model.context_in(dense_TW) + model.pool_slots(slots_TS, weights_TS)
    x_TD = items.take(rows_T)[:, : model.width] + context_TD
    return x_TD, rms_norm_reference(x_TD, _first_norm(model)).to(normed_as)


def _first_norm(model: Contextualizer) -> Tensor:
    block = model.blocks[0]
    assert isinstance(block, Block)
    return block.attention_norm.weight


def event_input_triton(
    model: Contextualizer,
    items: ItemRows,
    rows_T: Tensor,
    slots_TS: Tensor,
    weights_TS: Tensor,
    dense_TW: Tensor,
    normed_as: torch.dtype,
    options: dict[str, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Triton implementation of `event_input`, in one pass."""
    (num_events, num_slots), width = slots_TS.shape, model.width
    for tensor in (rows_T, slots_TS, weights_TS, dense_TW):
        assert tensor.is_contiguous()
    x_TD = items.built_NV.new_empty(num_events, width)
    normed_TD = torch.empty_like(x_TD, dtype=normed_as)
    options, block = options or configuration("event_input", current_target()), triton.next_power_of_2(width)
    event_input_kernel[(triton.cdiv(num_events, max(options["BLOCK_SIZE"] // block, 1)),)](
        *items.pointers, rows_T, model.context_table, slots_TS, weights_TS, dense_TW,
        model.context_in.weight, model.context_in.bias, _first_norm(model), x_TD, normed_TD, num_events, EPSILON,
        D=width, S=num_slots, W=dense_TW.shape[1], BLOCK_D=block, **options,
    )  # fmt: skip
    return x_TD, normed_TD


@jit
def event_input_kernel(  # type: ignore[no-untyped-def]
    built_ptr, added_ptr, num_built, built_stride, added_stride, rows_ptr, table_ptr, slots_ptr, weights_ptr, dense_ptr,
    in_ptr, bias_ptr, norm_ptr, x_ptr, normed_ptr, num_events, epsilon,
    D: tl.constexpr, S: tl.constexpr, W: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_SIZE: tl.constexpr,
) -> None:  # fmt: skip
    """One program makes the input of some events."""
    BLOCK_T: tl.constexpr = max(BLOCK_SIZE // BLOCK_D, 1)
    event = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    column = tl.arange(0, BLOCK_D)[None]
    is_event, is_column = event < num_events, column < D
    mask = is_event[:, None] & is_column
    row = tl.load(rows_ptr + event, mask=is_event, other=0)
    x = load_vectors(built_ptr, added_ptr, num_built, built_stride, added_stride, row, column, mask)
    x += tl.load(bias_ptr + column, mask=is_column, other=0.0)
    for slot in tl.static_range(S):
        table_row = tl.load(slots_ptr + event * S + slot, mask=is_event, other=0).to(tl.int64)
        weight = tl.load(weights_ptr + event * S + slot, mask=is_event, other=0.0)
        x += weight[:, None] * tl.load(table_ptr + table_row[:, None] * D + column, mask=mask, other=0.0)
    for place in tl.static_range(W):
        number = tl.load(dense_ptr + event * W + place, mask=is_event, other=0.0)
        x += number[:, None] * tl.load(in_ptr + column * W + place, mask=is_column, other=0.0)
    tl.store(x_ptr + event[:, None] * D + column, x, mask=mask)
    scale = tl.rsqrt(tl.sum(tl.where(mask, x * x, 0.0), 1, keep_dims=True) / D + epsilon)
    normed = x * scale * tl.load(norm_ptr + column, mask=is_column, other=0.0)
    tl.store(normed_ptr + event[:, None] * D + column, normed.to(normed_ptr.dtype.element_ty), mask=mask)
