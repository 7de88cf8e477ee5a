"""Signed sums of table rows: what hashed features are to a model.

N: rows, S: slots of a row, of all its fields, K: fields, R: rows of the table, E: width of the table
"""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from twotower.kernels.configurations import configuration, current_target
from twotower.kernels.dispatch import jit, run, tl, triton


def gather_pool(table_RE: Tensor, slots_NS: Tensor, weights_NS: Tensor, slot_counts: Sequence[int]) -> Tensor:
    """Sum of weight times table row over the slots of each field, [N, K, E] (Svenstrup et al. 2017, eq. 2).

    A row's slots are those of its fields in order, `slot_counts` of each; zero of a field without slots. Slots lie in the
    table. A weight of zero still reads its row: NaN in it spoils the sum.
    """
    in_triton, in_torch = (partial(impl, slot_counts=slot_counts) for impl in (gather_pool_triton, gather_pool_reference))
    pooled_NKE: Tensor = run(in_triton, in_torch, table_RE, slots_NS, weights_NS, fits=table_RE.shape[1] % 8 == 0)
    return pooled_NKE


def gather_pool_reference(table_RE: Tensor, slots_NS: Tensor, weights_NS: Tensor, slot_counts: Sequence[int]) -> Tensor:
    """Torch reference of `gather_pool`: every field of every row is one bag of slots."""
    num_rows, num_slots = slots_NS.shape
    assert sum(slot_counts) == num_slots
    if len(slot_counts) == 1 and num_slots:  # needs no starts, which take as long to make as a few bags to sum
        return functional.embedding_bag(slots_NS, table_RE, mode="sum", per_sample_weights=weights_NS)[:, None]
    rows_N = torch.arange(num_rows, dtype=slots_NS.dtype, device=slots_NS.device)
    starts = (rows_N[:, None] * num_slots + _starts(slot_counts, slots_NS)[:-1]).flatten()
    pooled = functional.embedding_bag(slots_NS.flatten(), table_RE, starts, mode="sum", per_sample_weights=weights_NS.flatten())
    return pooled.view(num_rows, len(slot_counts), table_RE.shape[1])


def _starts(slot_counts: Sequence[int], slots_NS: Tensor) -> Tensor:
    """The first slot of each field, and the end of the last field."""
    return torch.tensor([0, *accumulate(slot_counts)], dtype=slots_NS.dtype, device=slots_NS.device)


def gather_pool_triton(
    table_RE: Tensor,
    slots_NS: Tensor,
    weights_NS: Tensor,
    slot_counts: Sequence[int],
    options: dict[str, int] | None = None,
) -> Tensor:
    """Triton implementation of `gather_pool`, without a copy of the gathered rows."""
    (num_rows, num_slots), (_, width) = slots_NS.shape, table_RE.shape
    assert sum(slot_counts) == num_slots
    assert table_RE.is_contiguous()
    assert width % 8 == 0
    out_NKE = table_RE.new_empty(num_rows, len(slot_counts), width)
    if not out_NKE.numel():
        return out_NKE
    starts = _starts(slot_counts, slots_NS) if len(slot_counts) > 1 else None  # else nothing is copied to the device
    options = options or configuration("gather_pool", current_target())
    block = triton.next_power_of_2(width)
    num_blocks = triton.cdiv(num_rows, max(options["BLOCK_SIZE"] // block, 1))
    gather_pool_kernel[(num_blocks, len(slot_counts))](
        table_RE, slots_NS.contiguous(), weights_NS.contiguous(), starts, out_NKE, num_rows, num_slots,
        K=len(slot_counts), E=width, BLOCK_E=block, **options,
    )  # fmt: skip
    return out_NKE


@jit
def gather_pool_kernel(  # type: ignore[no-untyped-def]
    table_ptr, slots_ptr, weights_ptr, starts_ptr, out_ptr, num_rows, num_slots,
    K: tl.constexpr, E: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_SIZE: tl.constexpr,
) -> None:  # fmt: skip
    """One program pools one field of some rows."""
    BLOCK_N: tl.constexpr = max(BLOCK_SIZE // BLOCK_E, 1)
    row, field = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N), tl.program_id(1)
    column = tl.arange(0, BLOCK_E)[None]
    is_row = row < num_rows
    mask = is_row[:, None] & (column < E)
    pooled = tl.zeros([BLOCK_N, BLOCK_E], tl.float32)
    first, last = 0, num_slots
    if starts_ptr is not None:
        first, last = tl.load(starts_ptr + field).to(tl.int32), tl.load(starts_ptr + field + 1).to(tl.int32)
    for slot in tl.range(first, last):
        place = row * num_slots + slot
        table_row = tl.load(slots_ptr + place, mask=is_row, other=0).to(tl.int64)
        weight = tl.load(weights_ptr + place, mask=is_row, other=0.0).to(tl.float32)
        numbers = tl.load(table_ptr + table_row[:, None] * E + column, mask=mask, other=0.0).to(tl.float32)
        pooled += weight[:, None] * numbers
    tl.store(out_ptr + (row * K + field)[:, None] * E + column, pooled.to(out_ptr.dtype.element_ty), mask=mask)
