"""Queries, keys and values of new events by one linear layer; keys, turned, and values go straight into a paged cache.

T: new events, D: width of what the layer reads, H: heads, G: key/value heads, E: head width, U: (H + 2 G) E, P: half of E,
L: positions of the tables, N: pages of the cache, C: events of a page
"""

from torch import Tensor
from torch.nn import functional

from twotower.kernels.configurations import configuration, current_target
from twotower.kernels.dispatch import jit, run, tl, triton
from twotower.kernels.linear_norm import FEW, with_block
from twotower.kernels.linear_swiglu import multiplied_twice
from twotower.kernels.rotary import rotate_reference


def paged_projection(
    x_TD: Tensor,
    weight_UD: Tensor,
    k_NGCE: Tensor,
    v_NGCE: Tensor,
    places_T: Tensor,
    positions_T: Tensor,
    cos_LP: Tensor,
    sin_LP: Tensor,
) -> Tensor:
    """Queries [T, H, E], not turned. Key and value of event t are stored in row places_T[t] % C of page places_T[t] // C.

    The key is turned to positions_T[t] before. An event whose place is -1 is not stored. Other rows of the cache do not change.
    No two events may have one place. The layer's units are queries, then keys, then values.
    """
    tensors = (x_TD, weight_UD, k_NGCE, v_NGCE, places_T, positions_T, cos_LP, sin_LP)
    fits = k_NGCE.shape[3] % 16 == x_TD.shape[1] % 16 == 0
    q_THE: Tensor = run(paged_projection_triton, paged_projection_reference, *tensors, fits=fits)
    return q_THE


def paged_projection_reference(
    x_TD: Tensor,
    weight_UD: Tensor,
    k_NGCE: Tensor,
    v_NGCE: Tensor,
    places_T: Tensor,
    positions_T: Tensor,
    cos_LP: Tensor,
    sin_LP: Tensor,
) -> Tensor:
    """Torch reference of `paged_projection`."""
    num_kv_heads, page, width = k_NGCE.shape[1:]
    heads = functional.linear(x_TD, weight_UD).view(len(x_TD), len(weight_UD) // width, width)
    q_THE, k_TGE, v_TGE = heads.tensor_split([heads.shape[1] - 2 * num_kv_heads, heads.shape[1] - num_kv_heads], 1)
    here = places_T >= 0
    at = (places_T[here].long() // page, slice(None), places_T[here].long() % page)
    k_NGCE[at] = rotate_reference(k_TGE, cos_LP, sin_LP, positions_T)[here].to(k_NGCE.dtype)
    v_NGCE[at] = v_TGE[here].to(v_NGCE.dtype)
    return q_THE.contiguous()


def paged_projection_triton(
    x_TD: Tensor,
    weight_UD: Tensor,
    k_NGCE: Tensor,
    v_NGCE: Tensor,
    places_T: Tensor,
    positions_T: Tensor,
    cos_LP: Tensor,
    sin_LP: Tensor,
    options: dict[str, int] | None = None,
) -> Tensor:
    """Triton implementation of `paged_projection`, in one pass."""
    (num_rows, num_read), (_, num_kv_heads, page, width) = x_TD.shape, k_NGCE.shape
    for tensor in (x_TD, weight_UD, k_NGCE, v_NGCE):
        assert tensor.is_contiguous()
    num_heads, half = len(weight_UD) // width - 2 * num_kv_heads, triton.next_power_of_2(width // 2)
    q_THE = x_TD.new_empty(num_rows, num_heads, width)
    options = dict(options or configuration("paged_projection_few" if num_rows <= FEW else "paged_projection", current_target()))
    heads_each = max(options.pop("BLOCK_U") // (2 * half), 16 // half, 1)  # a product has 16 units or more
    if num_rows:
        paged_projection_kernel[
            (triton.cdiv(num_rows, options["BLOCK_T"]), triton.cdiv(num_heads + 2 * num_kv_heads, heads_each))
        ](
            x_TD, weight_UD, k_NGCE, v_NGCE, places_T, positions_T, cos_LP, sin_LP, q_THE, num_rows,
            D=num_read, H=num_heads, G=num_kv_heads, E=width, C=page, BLOCK_H=heads_each, BLOCK_P=half,
            **with_block(options, heads_each * half, x_TD),
        )  # fmt: skip
    return q_THE


@jit
def paged_projection_kernel(  # type: ignore[no-untyped-def]
    x_ptr, weight_ptr, k_pages_ptr, v_pages_ptr, places_ptr, positions_ptr, cos_ptr, sin_ptr, q_ptr, num_rows,
    D: tl.constexpr, H: tl.constexpr, G: tl.constexpr, E: tl.constexpr, C: tl.constexpr, BLOCK_H: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_F: tl.constexpr,
) -> None:  # fmt: skip
    """One program computes some heads of some events, as two halves of the columns, because turning a key mixes its halves."""
    event = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    unit = tl.arange(0, BLOCK_H * BLOCK_P)
    head, column = tl.program_id(1) * BLOCK_H + unit // BLOCK_P, unit % BLOCK_P
    is_event, is_unit = event < num_rows, (head < H + 2 * G) & (column < E // 2)
    low, high = multiplied_twice(
        x_ptr, event, is_event, weight_ptr, head * E + column, is_unit, E // 2, D, BLOCK_T, BLOCK_H * BLOCK_P, BLOCK_F
    )
    mask = is_event[:, None] & is_unit[None]
    query = q_ptr + (event * H)[:, None] * E + (head * E + column)[None]
    is_query = mask & (head < H)[None]
    tl.store(query, low.to(q_ptr.dtype.element_ty), mask=is_query)
    tl.store(query + E // 2, high.to(q_ptr.dtype.element_ty), mask=is_query)
    place = tl.load(places_ptr + event, mask=is_event, other=-1).to(tl.int64)
    mask &= (place >= 0)[:, None]
    is_key, is_value = mask & ((head >= H) & (head < H + G))[None], mask & (head >= H + G)[None]
    stored = (place // C * G)[:, None] * (C * E) + (place % C * E)[:, None] + ((head - H) % G * (C * E) + column)[None]
    tl.store(v_pages_ptr + stored, low.to(v_pages_ptr.dtype.element_ty), mask=is_value)
    tl.store(v_pages_ptr + stored + E // 2, high.to(v_pages_ptr.dtype.element_ty), mask=is_value)
    angle = tl.load(positions_ptr + event, mask=is_event, other=0)[:, None] * (E // 2) + column[None]
    cos = tl.load(cos_ptr + angle, mask=is_key, other=0.0)
    sin = tl.load(sin_ptr + angle, mask=is_key, other=0.0)
    tl.store(k_pages_ptr + stored, (low * cos - high * sin).to(k_pages_ptr.dtype.element_ty), mask=is_key)
    tl.store(k_pages_ptr + stored + E // 2, (high * cos + low * sin).to(k_pages_ptr.dtype.element_ty), mask=is_key)
