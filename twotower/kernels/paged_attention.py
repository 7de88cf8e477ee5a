"""Attention of the new events of each history, one or several, to the events of the history in a paged cache.

B: histories, T: new events of all histories, H: heads, G: key/value heads, each of R = H / G heads, E: head width, P: half of
it, L: positions of the tables, N: pages of the cache, C: events of a page, M: pages of a history at most, F: B + 1
"""

from functools import partial

import torch
from torch import Tensor

from twotower.kernels.configurations import configuration, current_target
from twotower.kernels.dispatch import jit, run, tl, triton
from twotower.kernels.packed_attention import LOG2_E, causal_attention, mix
from twotower.kernels.rotary import load_turned, rotate_reference


def paged_attention(
    q_THE: Tensor,
    k_NGCE: Tensor,
    v_NGCE: Tensor,
    pages_BM: Tensor,
    lengths_B: Tensor,
    offsets_F: Tensor,
    cos_LP: Tensor,
    sin_LP: Tensor,
    most_new: int,
) -> Tensor:
    """What each new event makes of its history up to itself, [T, H, E]; zero in a history without events.

    History b has `lengths_B[b]` events, of which the last offsets_F[b + 1] - offsets_F[b], at most `most_new`, are new. The cache
    holds the keys of all of them, turned, and their values already (`paged_store`); queries are turned here. Event l of history
    b is row l % C of page pages_BM[b, l // C]. What else pages and the table hold is never read as a number. A NaN in a history's
    events makes its results undefined, and no other's. Pages as in Kwon et al. 2023, section 4.
    """
    tensors = (q_THE, k_NGCE, v_NGCE, pages_BM, lengths_B, offsets_F, cos_LP, sin_LP)
    kernel, reference = partial(paged_attention_triton, most_new=most_new), partial(paged_attention_reference, most_new=most_new)
    mixed_THE: Tensor = run(kernel, reference, *tensors, fits=q_THE.shape[2] % 16 == 0)
    return mixed_THE


def paged_attention_reference(
    q_THE: Tensor,
    k_NGCE: Tensor,
    v_NGCE: Tensor,
    pages_BM: Tensor,
    lengths_B: Tensor,
    offsets_F: Tensor,
    cos_LP: Tensor,
    sin_LP: Tensor,
    most_new: int,
) -> Tensor:
    """Torch reference of `paged_attention`, history by history: the pages of each are gathered."""
    mixed_THE = torch.zeros_like(q_THE, memory_format=torch.contiguous_format)
    offsets = offsets_F.tolist()
    for b, length in enumerate(lengths_B.tolist()):
        start, stop = offsets[b], offsets[b + 1]
        assert stop - start <= most_new
        if length and stop > start:
            pages = pages_BM[b, : -(-length // k_NGCE.shape[2])]
            k_1GLE, v_1GLE = (x_NGCE[pages].transpose(0, 1).flatten(1, 2)[None, :, :length] for x_NGCE in (k_NGCE, v_NGCE))
            positions = torch.arange(length - (stop - start), length, device=q_THE.device)
            turned_THE = rotate_reference(q_THE[start:stop], cos_LP, sin_LP, positions)
            mixed_THE[start:stop] = causal_attention(turned_THE.transpose(0, 1)[None], k_1GLE, v_1GLE)[0].transpose(0, 1)
    return mixed_THE


def paged_attention_triton(
    q_THE: Tensor,
    k_NGCE: Tensor,
    v_NGCE: Tensor,
    pages_BM: Tensor,
    lengths_B: Tensor,
    offsets_F: Tensor,
    cos_LP: Tensor,
    sin_LP: Tensor,
    most_new: int,
    options: dict[str, int] | None = None,
) -> Tensor:
    """Triton implementation that reads the pages in place. The keys of a history are not split, because 256 are few."""
    (_, num_heads, width), (_, num_kv_heads, page, _) = q_THE.shape, k_NGCE.shape
    assert q_THE.stride()[1:] == (width, 1)
    assert q_THE.stride(0) % 16 == 0
    assert k_NGCE.is_contiguous()
    assert v_NGCE.is_contiguous()
    assert pages_BM.stride(1) == 1
    out_THE = q_THE.new_empty(q_THE.shape)
    if not most_new:
        return out_THE
    shared = num_heads // num_kv_heads
    options = options or configuration("paged_attention" if most_new > 1 else "paged_attention_one", current_target())
    options = options | {"BLOCK_KEYS": min(options["BLOCK_KEYS"], page)}
    num_blocks = triton.cdiv(most_new * shared, options["BLOCK_ROWS"])
    paged_attention_kernel[(num_blocks * len(lengths_B), num_kv_heads)](
        q_THE, k_NGCE, v_NGCE, pages_BM, lengths_B, offsets_F, cos_LP, sin_LP, out_THE,
        q_THE.stride(0), pages_BM.stride(0), num_blocks, width**-0.5 * LOG2_E, G=num_kv_heads, R=shared, E=width, C=page,
        BLOCK_E=triton.next_power_of_2(width), **options,
    )  # fmt: skip
    return out_THE


@jit
def paged_attention_kernel(  # type: ignore[no-untyped-def]
    q_ptr, k_ptr, v_ptr, pages_ptr, lengths_ptr, offsets_ptr, cos_ptr, sin_ptr, out_ptr, q_stride, pages_stride,
    num_blocks, scale,
    G: tl.constexpr, R: tl.constexpr, E: tl.constexpr, C: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
) -> None:  # fmt: skip
    """One program attends for some rows of one history. Each new event has R rows: its heads that share a key."""
    history = (tl.program_id(0) // num_blocks).to(tl.int64)
    group = tl.program_id(1)
    first_query = tl.load(offsets_ptr + history).to(tl.int64)
    num_queries = (tl.load(offsets_ptr + history + 1) - first_query).to(tl.int32)
    length = tl.load(lengths_ptr + history).to(tl.int32)
    first_row = tl.program_id(0) % num_blocks * BLOCK_ROWS
    if first_row >= num_queries * R:
        return
    row = first_row + tl.arange(0, BLOCK_ROWS)
    query, head = row // R, group * R + row % R
    position = tl.maximum(length - num_queries + query, 0)
    column = tl.arange(0, BLOCK_E)[None]
    mask = (query < num_queries)[:, None] & (column < E)
    q_rows = q_ptr + first_query * q_stride + (query * q_stride + head * E)[:, None]
    q = (load_turned(q_rows, cos_ptr, sin_ptr, position, column, mask, E) * scale).to(k_ptr.dtype.element_ty)

    highest = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    mixed = tl.zeros([BLOCK_ROWS, BLOCK_E], tl.float32)
    stop = length - num_queries + tl.minimum((first_row + BLOCK_ROWS - 1) // R + 1, num_queries)
    for start in tl.range(0, stop, BLOCK_KEYS):
        page = tl.load(pages_ptr + history * pages_stride + start // C).to(tl.int64)
        key = start + tl.arange(0, BLOCK_KEYS)
        events = (page * G + group) * (C * E) + (key % C)[:, None] * E + column
        is_event = (key < length)[:, None] & (column < E)
        k = tl.load(k_ptr + events, mask=is_event, other=0.0)
        v = tl.load(v_ptr + events, mask=is_event, other=0.0)
        highest, total, mixed = mix(q, k, v, key[None] <= position[:, None], highest, total, mixed)
    mixed = mixed / tl.where(length > 0, total, 1.0)[:, None]
    out_rows = out_ptr + first_query * (G * R * E) + (query * (G * R * E) + head * E)[:, None]
    tl.store(out_rows + column, mixed.to(out_ptr.dtype.element_ty), mask=mask)
