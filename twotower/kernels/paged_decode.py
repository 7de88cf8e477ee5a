"""Attention of the newest event of each history to the events of the history in a paged cache.

B: histories, H: heads, G: key/value heads, each of R = H / G heads, E: head width, P: half of it, L: positions of the tables,
N: pages of the cache, C: events of a page, M: pages of a history at most
"""

import torch
from torch import Tensor

from twotower.kernels.configurations import configuration, current_target
from twotower.kernels.dispatch import jit, tl, triton, use_triton
from twotower.kernels.packed_attention import LOG2_E, causal_attention, mix
from twotower.kernels.rotary import load_turned, rotate_reference


def paged_decode(
    q_BHE: Tensor,
    k_NGCE: Tensor,
    v_NGCE: Tensor,
    pages_BM: Tensor,
    lengths_B: Tensor,
    cos_LP: Tensor,
    sin_LP: Tensor,
) -> Tensor:
    """What the last event of each history makes of the history, [B, H, E]; zero of one without events.

    The cache holds its key, turned (`rotary.rotate`), and its value already; the query is turned here, to position length - 1.
    Event l of history b is row l % C of page pages_BM[b, l // C]. What else pages and the table hold is never read as a number.
    A NaN in a history's events makes its result undefined, and no other's. Pages as in Kwon et al. 2023, section 4.
    """
    tensors = (q_BHE, k_NGCE, v_NGCE, pages_BM, lengths_B, cos_LP, sin_LP)
    impl = paged_decode_triton if use_triton(*tensors) and q_BHE.shape[2] % 16 == 0 else paged_decode_reference
    return impl(*tensors)


def paged_decode_reference(
    q_BHE: Tensor,
    k_NGCE: Tensor,
    v_NGCE: Tensor,
    pages_BM: Tensor,
    lengths_B: Tensor,
    cos_LP: Tensor,
    sin_LP: Tensor,
) -> Tensor:
    """Torch reference of `paged_decode`, history by history: the pages of each are gathered."""
    turned_BHE = rotate_reference(q_BHE, cos_LP, sin_LP, (lengths_B - 1).clamp(min=0))
    mixed_BHE = torch.zeros_like(q_BHE)
    for b, length in enumerate(lengths_B.tolist()):
        if length:
            pages = pages_BM[b, : -(-length // k_NGCE.shape[2])]
            k_1GLE, v_1GLE = (x_NGCE[pages].transpose(0, 1).flatten(1, 2)[None, :, :length] for x_NGCE in (k_NGCE, v_NGCE))
            mixed_BHE[b] = causal_attention(turned_BHE[b, None, :, None], k_1GLE, v_1GLE)[0, :, 0]
    return mixed_BHE


def paged_decode_triton(
    q_BHE: Tensor,
    k_NGCE: Tensor,
    v_NGCE: Tensor,
    pages_BM: Tensor,
    lengths_B: Tensor,
    cos_LP: Tensor,
    sin_LP: Tensor,
    options: dict[str, int] | None = None,
) -> Tensor:
    """Triton implementation that reads the pages in place. No history is split, because 256 events are few pages."""
    (num_histories, num_heads, width), (_, num_kv_heads, page, _) = q_BHE.shape, k_NGCE.shape
    assert q_BHE.stride()[1:] == (width, 1)
    assert q_BHE.stride(0) % 16 == 0
    assert k_NGCE.is_contiguous()
    assert v_NGCE.is_contiguous()
    assert pages_BM.stride(1) == 1
    out_BHE = q_BHE.new_empty(q_BHE.shape)
    shared = num_heads // num_kv_heads
    options = options or configuration("paged_decode", current_target())
    paged_decode_kernel[(num_histories, num_kv_heads)](
        q_BHE, k_NGCE, v_NGCE, pages_BM, lengths_B, cos_LP, sin_LP, out_BHE,
        q_BHE.stride(0), pages_BM.stride(0), width**-0.5 * LOG2_E, G=num_kv_heads, R=shared, E=width, C=page,
        BLOCK_R=max(16, triton.next_power_of_2(shared)), BLOCK_E=triton.next_power_of_2(width), **options,
    )  # fmt: skip
    return out_BHE


@jit
def paged_decode_kernel(  # type: ignore[no-untyped-def]
    q_ptr, k_ptr, v_ptr, pages_ptr, lengths_ptr, cos_ptr, sin_ptr, out_ptr, q_stride, pages_stride, scale,
    G: tl.constexpr, R: tl.constexpr, E: tl.constexpr, C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_E: tl.constexpr,
) -> None:  # fmt: skip
    """One program attends for the heads of one history that share keys."""
    history, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    length = tl.load(lengths_ptr + history).to(tl.int32)
    head, column = tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_E)[None]
    mask = (head < R)[:, None] & (column < E)
    place = ((group * R + head) * E)[:, None]
    position = tl.zeros([BLOCK_R], tl.int32) + tl.maximum(length - 1, 0)
    q = load_turned(q_ptr + history * q_stride + place, cos_ptr, sin_ptr, position, column, mask, E)
    q = (q * scale).to(k_ptr.dtype.element_ty)

    highest = tl.full([BLOCK_R], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_R], tl.float32)
    mixed = tl.zeros([BLOCK_R, BLOCK_E], tl.float32)
    row = tl.arange(0, C)
    for start in tl.range(0, length, C):
        page = tl.load(pages_ptr + history * pages_stride + start // C).to(tl.int64)
        events = (page * G + group) * (C * E) + row[:, None] * E + column
        is_event = start + row < length
        k = tl.load(k_ptr + events, mask=is_event[:, None] & (column < E), other=0.0)
        v = tl.load(v_ptr + events, mask=is_event[:, None] & (column < E), other=0.0)
        highest, total, mixed = mix(q, k, v, is_event[None], highest, total, mixed)
    mixed = mixed / tl.where(length > 0, total, 1.0)[:, None]
    tl.store(out_ptr + history * (G * R * E) + place + column, mixed.to(out_ptr.dtype.element_ty), mask=mask)
