"""Causal attention of histories laid end to end, without padding.

B: histories, T: queries of all histories, S: keys of all histories, H: heads, G: key/value heads, each of R = H / G heads,
E: head width, P: half of it, L: positions of the tables
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.nn import functional

from twotower.kernels.configurations import configuration, current_target
from twotower.kernels.dispatch import jit, run, tl, triton
from twotower.kernels.rotary import load_turned, rotate_reference, turn

LOG2_E = 1.4426950408889634  # kernels compute powers of two


@dataclass(frozen=True)
class Packing:
    """Number of queries and of keys of each history, either of which may be 0. The queries are of its last events.

    `device` is that of the packed tensors.
    """

    num_queries: tuple[int, ...]
    num_keys: tuple[int, ...]
    device: torch.device

    def __post_init__(self) -> None:
        assert all(0 <= queries <= keys for queries, keys in zip(self.num_queries, self.num_keys, strict=True))

    @staticmethod
    def whole(lengths: Sequence[int], device: torch.device) -> "Packing":
        """Every event of every history is a query and a key."""
        return Packing(tuple(lengths), tuple(lengths), device)

    @cached_property
    def is_even(self) -> bool:
        """Whether all histories have equal numbers of queries and keys, so that one product is enough."""
        return len({*zip(self.num_queries, self.num_keys, strict=True)}) == 1

    @cached_property
    def offsets_2B(self) -> Tensor:
        """First query and first key of each history, and at the end their totals, [2, B + 1]."""
        starts = torch.tensor([(0, *self.num_queries), (0, *self.num_keys)], dtype=torch.int32).cumsum(1, dtype=torch.int32)
        return starts.to(self.device)

    @cached_property
    def positions_T(self) -> Tensor:
        """The position of each query's event in its history."""
        queries_B, keys_B = torch.tensor(self.num_queries, dtype=torch.int64), torch.tensor(self.num_keys, dtype=torch.int64)
        shift_B = keys_B - queries_B.cumsum(0)
        positions_T = torch.arange(sum(self.num_queries)) + shift_B.repeat_interleave(queries_B)
        return positions_T.to(self.device)


def packed_attention(q_THE: Tensor, k_SGE: Tensor, v_SGE: Tensor, cos_LP: Tensor, sin_LP: Tensor, packing: Packing) -> Tensor:
    """Every query's mean of the values of its history up to its own event, [T, H, E] (Vaswani et al. 2017, eq. 1).

    Queries are rotated by their positions here. Keys must be rotated already (`rotary.rotate`): once each, as a cache stores
    them, rather than once for every block of queries. Key/value head g belongs to heads g R to g R + R - 1 (Ainslie et al.
    2023). A NaN in a history's rows leaves the results of that history alone undefined.
    """
    in_triton, in_torch = (partial(impl, packing=packing) for impl in (packed_attention_triton, packed_attention_reference))
    mixed_THE: Tensor = run(in_triton, in_torch, q_THE, k_SGE, v_SGE, cos_LP, sin_LP, fits=q_THE.shape[2] % 16 == 0)
    return mixed_THE


def packed_attention_reference(
    q_THE: Tensor, k_SGE: Tensor, v_SGE: Tensor, cos_LP: Tensor, sin_LP: Tensor, packing: Packing
) -> Tensor:
    """Torch reference of `packed_attention`: equally long histories together, others one by one."""
    if packing.is_even:
        num_queries, num_keys = packing.num_queries[0], packing.num_keys[0]
        if not num_queries:
            return q_THE.new_empty(q_THE.shape)
        q_BTHE, k_BCGE, v_BCGE = (
            x.view(-1, length, *x.shape[1:]) for x, length in ((q_THE, num_queries), (k_SGE, num_keys), (v_SGE, num_keys))
        )
        new = slice(num_keys - num_queries, num_keys)
        turned_BTHE = turn(q_BTHE, cos_LP[new, None], sin_LP[new, None])
        return causal_attention(*(x.transpose(1, 2) for x in (turned_BTHE, k_BCGE, v_BCGE))).transpose(1, 2).flatten(0, 1)
    turned_THE = rotate_reference(q_THE, cos_LP, sin_LP, packing.positions_T)
    queries, keys, values = (
        torch.split(x, list(lengths))
        for x, lengths in ((turned_THE, packing.num_queries), (k_SGE, packing.num_keys), (v_SGE, packing.num_keys))
    )
    parts = (part for part in zip(queries, keys, values, strict=True) if len(part[0]))
    mixed = [causal_attention(*(x.transpose(0, 1)[None] for x in part))[0].transpose(0, 1) for part in parts]
    return torch.cat([q_THE[:0], *mixed])


def causal_attention(q_BHTE: Tensor, k_BGCE: Tensor, v_BGCE: Tensor) -> Tensor:
    """Attention of the last T of C events, all rotated, to the events up to each."""
    num_new, num_all = q_BHTE.shape[2], k_BGCE.shape[2]
    mask = None
    if num_new not in (1, num_all):
        mask = torch.ones(num_new, num_all, dtype=torch.bool, device=q_BHTE.device).tril(num_all - num_new)
    is_causal = 1 < num_new == num_all
    return functional.scaled_dot_product_attention(q_BHTE, k_BGCE, v_BGCE, attn_mask=mask, is_causal=is_causal, enable_gqa=True)


def packed_attention_triton(
    q_THE: Tensor,
    k_SGE: Tensor,
    v_SGE: Tensor,
    cos_LP: Tensor,
    sin_LP: Tensor,
    packing: Packing,
    options: dict[str, int] | None = None,
) -> Tensor:
    """Triton implementation without scores in memory (Dao 2023); heads that share keys are side by side in a block."""
    (num_queries, num_heads, width), num_kv_heads = q_THE.shape, k_SGE.shape[1]
    for x in (q_THE, k_SGE, v_SGE):
        assert x.stride()[1:] == (width, 1)
        assert x.stride(0) % 16 == 0
    out_THE = q_THE.new_empty(q_THE.shape)
    if not num_queries:
        return out_THE
    options = options or configuration("packed_attention", current_target())
    num_blocks = triton.cdiv(max(packing.num_queries) * num_heads // num_kv_heads, options["BLOCK_ROWS"])
    packed_attention_kernel[(num_blocks * len(packing.num_queries), num_kv_heads)](
        q_THE, k_SGE, v_SGE, cos_LP, sin_LP, *packing.offsets_2B, out_THE,
        q_THE.stride(0), k_SGE.stride(0), v_SGE.stride(0), num_blocks, width**-0.5 * LOG2_E,
        G=num_kv_heads, R=num_heads // num_kv_heads, E=width, BLOCK_E=triton.next_power_of_2(width), **options,
    )  # fmt: skip
    return out_THE


@jit
def packed_attention_kernel(  # type: ignore[no-untyped-def]
    q_ptr, k_ptr, v_ptr, cos_ptr, sin_ptr, query_offsets_ptr, key_offsets_ptr, out_ptr, q_stride, k_stride, v_stride,
    num_blocks, scale,
    G: tl.constexpr, R: tl.constexpr, E: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
) -> None:  # fmt: skip
    """One program attends for some rows of one history. Each query has R rows: its heads that share a key."""
    history = tl.program_id(0) // num_blocks
    group = tl.program_id(1)
    first_query = tl.load(query_offsets_ptr + history).to(tl.int64)
    first_key = tl.load(key_offsets_ptr + history).to(tl.int64)
    num_queries = (tl.load(query_offsets_ptr + history + 1) - first_query).to(tl.int32)
    num_keys = (tl.load(key_offsets_ptr + history + 1) - first_key).to(tl.int32)
    first_row = tl.program_id(0) % num_blocks * BLOCK_ROWS
    if first_row >= num_queries * R:
        return
    row = first_row + tl.arange(0, BLOCK_ROWS)
    query, head = row // R, group * R + row % R
    position = num_keys - num_queries + query
    column = tl.arange(0, BLOCK_E)[None]
    mask = (query < num_queries)[:, None] & (column < E)
    q_rows = q_ptr + first_query * q_stride + (query * q_stride + head * E)[:, None]
    q = (load_turned(q_rows, cos_ptr, sin_ptr, position, column, mask, E) * scale).to(k_ptr.dtype.element_ty)
    k_rows = k_ptr + first_key * k_stride + group * E + column
    v_rows = v_ptr + first_key * v_stride + group * E + column

    highest = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    mixed = tl.zeros([BLOCK_ROWS, BLOCK_E], tl.float32)
    stop = num_keys - num_queries + tl.minimum((first_row + BLOCK_ROWS - 1) // R + 1, num_queries)
    for start in tl.range(0, stop, BLOCK_KEYS):
        key = start + tl.arange(0, BLOCK_KEYS)
        key_mask = (key < num_keys)[:, None] & (column < E)
        k = tl.load(k_rows + key[:, None] * k_stride, mask=key_mask, other=0.0)
        v = tl.load(v_rows + key[:, None] * v_stride, mask=key_mask, other=0.0)
        highest, total, mixed = mix(q, k, v, key[None] <= position[:, None], highest, total, mixed)
    out_rows = out_ptr + first_query * (G * R * E) + (query * (G * R * E) + head * E)[:, None]
    tl.store(out_rows + column, (mixed / total[:, None]).to(out_ptr.dtype.element_ty), mask=mask)


@jit
def mix(  # type: ignore[no-untyped-def]
    q, k, v, visible, highest, total, mixed,
):  # fmt: skip
    """Highest score, sum of powers of two and sum of values of each row after a block of keys (Milakov & Gimelshein 2018).

    The first block must hold a key that is visible.
    """
    score = tl.where(visible, tl.dot(q, tl.trans(k), input_precision="ieee"), float("-inf"))
    above = tl.maximum(highest, tl.max(score, 1))
    weight = tl.exp2(score - above[:, None])
    decay = tl.exp2(highest - above)
    mixed = tl.dot(weight.to(v.dtype), v, mixed * decay[:, None], input_precision="ieee")
    return above, total * decay + tl.sum(weight, 1), mixed
