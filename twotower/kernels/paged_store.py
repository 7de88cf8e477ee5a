"""Stores keys, turned on the way, and values of new events in a paged cache.

T: new events, G: key/value heads, E: head width, P: half of it, L: positions of the tables, N: pages of the cache, C: events of
a page
"""

from torch import Tensor

from twotower.kernels.configurations import configuration, current_target
from twotower.kernels.dispatch import jit, run, tl, triton
from twotower.kernels.rotary import load_turned, rotate_reference


def paged_store(
    k_TGE: Tensor,
    v_TGE: Tensor,
    k_NGCE: Tensor,
    v_NGCE: Tensor,
    places_T: Tensor,
    positions_T: Tensor,
    cos_LP: Tensor,
    sin_LP: Tensor,
) -> None:
    """Store event t in row places_T[t] % C of page places_T[t] // C, its key turned to positions_T[t]; no event if it is -1.

    Changes only these rows. No two events may have one place.
    """
    tensors = (k_TGE, v_TGE, k_NGCE, v_NGCE, places_T, positions_T, cos_LP, sin_LP)
    run(paged_store_triton, paged_store_reference, *tensors, fits=k_TGE.shape[2] % 16 == 0)


def paged_store_reference(
    k_TGE: Tensor,
    v_TGE: Tensor,
    k_NGCE: Tensor,
    v_NGCE: Tensor,
    places_T: Tensor,
    positions_T: Tensor,
    cos_LP: Tensor,
    sin_LP: Tensor,
) -> None:
    """Torch reference of `paged_store`."""
    page, here = k_NGCE.shape[2], places_T >= 0
    at = (places_T[here].long() // page, slice(None), places_T[here].long() % page)
    k_NGCE[at] = rotate_reference(k_TGE, cos_LP, sin_LP, positions_T)[here].to(k_NGCE.dtype)
    v_NGCE[at] = v_TGE[here].to(v_NGCE.dtype)


def paged_store_triton(
    k_TGE: Tensor,
    v_TGE: Tensor,
    k_NGCE: Tensor,
    v_NGCE: Tensor,
    places_T: Tensor,
    positions_T: Tensor,
    cos_LP: Tensor,
    sin_LP: Tensor,
    options: dict[str, int] | None = None,
) -> None:
    """Triton implementation of `paged_store`, in one pass."""
    (num_rows, num_heads, width), page = k_TGE.shape, k_NGCE.shape[2]
    for x in (k_TGE, v_TGE):
        assert x.stride()[1:] == (width, 1)
        assert x.stride(0) % 16 == 0
    assert k_TGE.stride() == v_TGE.stride()
    assert k_NGCE.is_contiguous()
    assert v_NGCE.is_contiguous()
    options = options or configuration("paged_store", current_target())
    if num_rows:
        paged_store_kernel[(triton.cdiv(num_rows * num_heads, options["BLOCK_ROWS"]),)](
            k_TGE, v_TGE, k_NGCE, v_NGCE, places_T, positions_T, cos_LP, sin_LP, num_rows * num_heads, k_TGE.stride(0),
            G=num_heads, E=width, C=page, BLOCK_E=triton.next_power_of_2(width), **options,
        )  # fmt: skip


@jit
def paged_store_kernel(  # type: ignore[no-untyped-def]
    k_ptr, v_ptr, k_pages_ptr, v_pages_ptr, places_ptr, positions_ptr, cos_ptr, sin_ptr, num_rows, stride,
    G: tl.constexpr, E: tl.constexpr, C: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_ROWS: tl.constexpr,
) -> None:  # fmt: skip
    """One program stores some rows of heads."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    event, head = row // G, row % G
    place = tl.load(places_ptr + event, mask=row < num_rows, other=-1).to(tl.int64)
    position = tl.load(positions_ptr + event, mask=row < num_rows, other=0)
    column = tl.arange(0, BLOCK_E)[None]
    mask = (place >= 0)[:, None] & (column < E)
    source = (event * stride + head * E)[:, None]
    stored = ((place // C * G + head) * (C * E) + place % C * E)[:, None] + column
    turned = load_turned(k_ptr + source, cos_ptr, sin_ptr, position, column, mask, E)
    tl.store(k_pages_ptr + stored, turned.to(k_pages_ptr.dtype.element_ty), mask=mask)
    values = tl.load(v_ptr + source + column, mask=mask, other=0.0)
    tl.store(v_pages_ptr + stored, values.to(v_pages_ptr.dtype.element_ty), mask=mask)
