"""The frozen softmax (stage 2): log of the sum of exp(score) over frozen candidates and its gradient, in one pass.

It is attention whose values are its keys: the online softmax that sums the exponentials also sums the candidates weighted by
them, and their mean is the gradient with respect to the query. Scores exist one tile at a time, never as a whole matrix.

Q: queries, D: item width, P: popularity dimensions, V: D + P, T: days, N: items, K: candidates, W: rows of bias,
U: distinct days, H: hits, M: certain pairs of a query and an item, S: splits of the candidates, B: queries of a program,
C: candidates of a tile or of a piece
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from training.kernels.candidates import ALIGNED, CandidateSet, Certain, Days, ItemVectors, Pool, WholeCatalogue, aligned
from training.kernels.softmax_state import BITS, SoftmaxState, merge
from training.kernels.softmax_tiles import frozen_softmax_reference
from twotower.kernels.configurations import Target, configuration, current_target
from twotower.kernels.dispatch import jit, tl, triton, use_triton

PROGRAMS = 264  # keep a large GPU busy: two for each of its 132 multiprocessors
GATHERED = 1 << 16  # candidates of a pool that are gathered at once


def frozen_softmax(
    query_QV: Tensor, extra_M: Tensor, certain: Certain, day_Q: Tensor, catalogue: ItemVectors, candidates: CandidateSet
) -> tuple[SoftmaxState, Tensor]:
    """The softmax of every query over the candidates and its certain items; also returns the scores [M] of the certain pairs.

    score = <query, [item vector, popularity on the query's day]> + (the candidate's log weight, or `extra_M` if certain).
    Arguments are in nats; the state and the returned scores are in bits. A certain item counts once, whether it is a candidate
    or not; an extra of -inf takes it out (an accidental hit). Where nothing counts the log partition is -inf. A NaN score makes
    the log partition of its query NaN. Memory is O(Q V + M) and a few tiles (on a GPU: a piece of the pool), whatever the
    number of candidates.
    """
    implementation = frozen_softmax_triton if use_triton(query_QV, catalogue.vectors_ND) else frozen_softmax_reference
    return implementation(query_QV, extra_M, certain, day_Q, catalogue, candidates)


def frozen_softmax_triton(
    query_QV: Tensor, extra_M: Tensor, certain: Certain, day_Q: Tensor, catalogue: ItemVectors, candidates: CandidateSet
) -> tuple[SoftmaxState, Tensor]:
    """Certain pairs are scored by themselves and masked where they are candidates; in single precision."""
    state, score_M = scan_pairs(Queries(query_QV, day_Q), catalogue, certain.query_M, certain.rows_M, extra_M)
    column_M = candidates.columns_of(certain.rows_M)
    for span in spans_of(candidates, catalogue, Days(day_Q)):
        place_M = column_M - span.first
        inside = torch.nonzero((place_M >= 0) & (place_M < len(span.items.vectors_ND)))[:, 0]
        of_span = scan_span(Queries(query_QV, span.day_Q), span.items, span.bias_C, certain.query_M[inside], place_M[inside])
        state = merge(state, of_span)
    return state, score_M


@dataclass(frozen=True, slots=True)
class Queries:
    """Query vectors with the day of each. `window_Q` says which row of the bias each reads, where the bias has several rows."""

    vectors_QV: Tensor
    day_Q: Tensor
    window_Q: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """Candidates that lie side by side in memory, from column `first` on, and what is added to their scores (nats)."""

    first: int
    items: ItemVectors
    day_Q: Tensor  # the day of each query, as an index into the popularity of `items`
    bias_C: Tensor | None


def spans_of(candidates: CandidateSet, catalogue: ItemVectors, days: Days) -> Iterator[Span]:
    """The whole catalogue as it is, or a pool gathered piece by piece: once here, instead of once for each block of queries."""
    match candidates:
        case WholeCatalogue():
            yield Span(0, catalogue, days.day_Q, None)
        case Pool(rows_K, log_weight_K):
            for first in range(0, len(candidates), GATHERED):
                rows_C = rows_K[first : first + GATHERED]
                popularity_PUC = catalogue.popularity_PTN[:, days.day_U[:, None], aligned(rows_C)]
                items = ItemVectors(catalogue.vectors_ND[rows_C], popularity_PUC)
                yield Span(first, items, days.index_Q, aligned(log_weight_K[first : first + GATHERED].float()))


def item_shape(catalogue: ItemVectors) -> dict[str, int]:
    """Item width, popularity dimensions and the power of two that covers the width, named as the kernels' arguments."""
    width = catalogue.vectors_ND.shape[1]
    return {"D": width, "P": len(catalogue.popularity_PTN), "BLOCK_D": max(16, triton.next_power_of_2(width))}


def num_columns(items: ItemVectors) -> int:
    """How many popularity columns are read: the items and, if popularity has more, padding up to a multiple of ALIGNED."""
    return min(len(items.vectors_ND) + -len(items.vectors_ND) % ALIGNED, items.popularity_PTN.shape[2])


def scan_line(catalogue: ItemVectors) -> str:
    """Name of the scan's line in the table of configurations. Popularity and float32 need more registers, so smaller blocks."""
    if catalogue.vectors_ND.dtype == torch.float32:
        return "softmax_scan_float32"
    return "softmax_scan_popularity" if len(catalogue.popularity_PTN) else "softmax_scan"


def precision(target: Target) -> str:
    """How float32 products are computed: as exact as float32, on tensor cores where the target can."""
    return "ieee" if target == "gfx942" else "tf32x3"


@jit
def scan_kernel(  # type: ignore[no-untyped-def]
    query_ptr, order_ptr, day_ptr, window_ptr, vectors_ptr, popularity_ptr, bias_ptr, bound_ptr, hit_ptr,
    highest_ptr, total_ptr, sum_ptr, num_queries, num_candidates, num_columns, tiles_per_split, stride_p, stride_t, stride_n,
    D: tl.constexpr, P: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_C: tl.constexpr, BITS: tl.constexpr, PLACE: tl.constexpr, PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """Program (b, s): the softmax state of queries `order[b BLOCK_Q ...]` over split s of the candidates.

    `hit_ptr` holds ascending columns that are left out: bound[s, q] to bound[s + 1, q] are those of split s and query q.
    Popularity and bias have `num_columns` columns, a multiple of 16 where possible, because loads are then wide.
    """
    item_type = vectors_ptr.dtype.element_ty
    split = tl.program_id(1)
    at_D, at_P = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_P)
    place_B = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    real_B = place_B < num_queries
    query_B = tl.load(order_ptr + place_B, mask=real_B, other=0)
    own_B = query_ptr + query_B * (D + P)
    query_BD = tl.load(own_B[:, None] + at_D[None, :], mask=real_B[:, None] & (at_D < D)[None, :], other=0.0).to(item_type)
    query_BP = tl.load(own_B[:, None] + D + at_P[None, :], mask=real_B[:, None] & (at_P < P)[None, :], other=0.0)
    day_B = (tl.load(day_ptr + query_B, mask=real_B, other=0) * stride_t).to(PLACE)
    if window_ptr is not None:
        window_B = (tl.load(window_ptr + query_B, mask=real_B, other=0) * num_columns).to(tl.int32)
    hit_B = tl.load(bound_ptr + split * num_queries + query_B, mask=real_B, other=0)
    end_B = tl.load(bound_ptr + (split + 1) * num_queries + query_B, mask=real_B, other=0)
    next_B = tl.load(hit_ptr + hit_B, mask=hit_B < end_B, other=num_candidates)
    highest_B = tl.full([BLOCK_Q], -float("inf"), tl.float32)
    total_B = tl.zeros([BLOCK_Q], tl.float32)
    sum_BD = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    sum_BP = tl.zeros([BLOCK_Q, BLOCK_P], tl.float32)
    start = split * tiles_per_split * BLOCK_C
    stop = tl.minimum(start + tiles_per_split * BLOCK_C, num_candidates)
    for tile in range(start, stop, BLOCK_C):
        column_C = tile + tl.arange(0, BLOCK_C)
        real_C = column_C < num_candidates
        held_C = column_C < num_columns
        row_C = column_C.to(tl.int64)
        item_CD = tl.load(vectors_ptr + row_C[:, None] * D + at_D[None, :], mask=real_C[:, None] & (at_D < D)[None, :], other=0.0)
        score_BC = tl.dot(query_BD, tl.trans(item_CD), input_precision=PRECISION)
        place_BC = day_B[:, None] + (row_C * stride_n).to(PLACE)[None, :]
        if (P > 0) or (bias_ptr is not None):
            beside_BC = tl.zeros([BLOCK_Q, BLOCK_C], tl.float32)  # added to a large score at once, which then rounds once only
            for p in tl.static_range(P):
                page_ptr = popularity_ptr + p * stride_p
                popularity_BC = tl.load(page_ptr + place_BC, mask=held_C[None, :], other=0.0).to(tl.float32)
                beside_BC += tl.sum(tl.where(at_P[None, :] == p, query_BP, 0.0), 1)[:, None] * popularity_BC
            if bias_ptr is not None:
                if window_ptr is None:
                    beside_BC += tl.load(bias_ptr + column_C, mask=held_C, other=0.0)[None, :]
                else:
                    bias_BC = bias_ptr + window_B[:, None] + column_C[None, :]
                    beside_BC += tl.load(bias_BC, mask=held_C[None, :], other=0.0)
            score_BC += beside_BC
        score_BC = tl.where(real_C[None, :], score_BC, -float("inf"))
        end = tl.minimum(tile + BLOCK_C, num_candidates)
        if tl.min(next_B, 0) < end:  # without this test, the inner loop would keep loads from being issued ahead
            while tl.min(next_B, 0) < end:
                score_BC = tl.where(next_B[:, None] == column_C[None, :], -float("inf"), score_BC)
                hit_B += (next_B < end).to(hit_B.dtype)
                next_B = tl.load(hit_ptr + hit_B, mask=hit_B < end_B, other=num_candidates)
        before_B = highest_B
        highest_B = tl.maximum(highest_B, tl.max(score_BC, 1))
        finite_B = tl.maximum(highest_B, -3.4028234e38)
        weight_BC = tl.exp2((score_BC - finite_B[:, None]) * BITS)  # exactly 1 for the highest, which half precision holds
        shrink_B = tl.exp2((before_B - finite_B) * BITS)
        total_B = total_B * shrink_B + tl.sum(weight_BC, 1)
        sum_BD = tl.dot(weight_BC.to(item_type), item_CD, sum_BD * shrink_B[:, None], input_precision=PRECISION)
        sum_BP *= shrink_B[:, None]
        for p in tl.static_range(P):
            page_ptr = popularity_ptr + p * stride_p
            popularity_BC = tl.load(page_ptr + place_BC, mask=held_C[None, :], other=0.0, cache_modifier=".ca").to(tl.float32)
            sum_BP += tl.where(at_P[None, :] == p, tl.sum(weight_BC * popularity_BC, 1)[:, None], 0.0)
    out_B = split * num_queries + query_B
    bits_B = highest_B * BITS
    excess_B = tl.where(total_B == 0, 1.0, tl.exp2(tl.fma(highest_B, BITS, -bits_B)))  # corrects for the rounding of bits_B
    total_B *= excess_B
    sum_BD *= excess_B[:, None]
    sum_BP *= excess_B[:, None]
    tl.store(highest_ptr + out_B, bits_B, mask=real_B)
    tl.store(total_ptr + out_B, total_B, mask=real_B)
    sum_B = sum_ptr + out_B.to(tl.int64) * (D + P)
    tl.store(sum_B[:, None] + at_D[None, :], sum_BD, mask=real_B[:, None] & (at_D < D)[None, :])
    tl.store(sum_B[:, None] + D + at_P[None, :], sum_BP, mask=real_B[:, None] & (at_P < P)[None, :])


def scan_span(
    queries: Queries, items: ItemVectors, bias: Tensor | None, hit_query_H: Tensor, hit_column_H: Tensor
) -> SoftmaxState:
    """The softmax state of each query over all items but its hits. Hits are distinct, sorted by query and then by column.

    `bias` (nats) is [C] or [W, C]. It has as many columns as popularity, even where popularity has no dimension.
    """
    num_queries, num_candidates, device = len(queries.vectors_QV), len(items.vectors_ND), queries.vectors_QV.device
    (_, num_days, _), (stride_p, stride_t, stride_n) = items.popularity_PTN.shape, items.popularity_PTN.stride()
    config = configuration(scan_line(items), current_target())
    num_blocks, num_tiles = (-(-n // config[b]) for n, b in ((num_queries, "BLOCK_Q"), (num_candidates, "BLOCK_C")))
    num_splits = max(1, min(num_tiles, PROGRAMS // max(num_blocks, 1)))
    tiles_per_split = -(-num_tiles // num_splits)
    numbers_Q = torch.arange(num_queries, device=device)
    first_S = torch.arange(num_splits + 1, device=device) * tiles_per_split * config["BLOCK_C"]
    keys_SQ = numbers_Q * num_candidates + first_S.clamp(max=num_candidates)[:, None]
    highest_SQ, total_SQ = (queries.vectors_QV.new_empty(num_splits, num_queries, dtype=torch.float32) for _ in range(2))
    sum_SQV = queries.vectors_QV.new_empty(num_splits, *queries.vectors_QV.shape, dtype=torch.float32)
    if num_queries:
        scan_kernel[(num_blocks, num_splits)](
            queries.vectors_QV.float().contiguous(),
            queries.day_Q.argsort(stable=True),  # queries of one program then read the same popularity
            queries.day_Q,
            queries.window_Q,
            items.vectors_ND.contiguous(),
            items.popularity_PTN,
            bias,
            torch.searchsorted(hit_query_H * num_candidates + hit_column_H, keys_SQ),
            hit_column_H,
            highest_SQ,
            total_SQ,
            sum_SQV,
            num_queries,
            num_candidates,
            num_columns(items),
            tiles_per_split,
            stride_p,
            stride_t,
            stride_n,
            **item_shape(items),
            BLOCK_P=triton.next_power_of_2(max(len(items.popularity_PTN), 1)),
            **config,
            BITS=BITS,
            PLACE=tl.int64 if stride_t * num_days >= 1 << 31 else tl.int32,
            PRECISION=precision(current_target()),
        )
    return reduce(merge, (SoftmaxState(*state) for state in zip(highest_SQ, total_SQ, sum_SQV, strict=True)))


@jit
def pairs_kernel(  # type: ignore[no-untyped-def]
    query_ptr, day_ptr, vectors_ptr, popularity_ptr, bound_ptr, row_ptr, extra_ptr, score_ptr, highest_ptr, total_ptr, sum_ptr,
    stride_p, stride_t, stride_n,
    D: tl.constexpr, P: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
    BITS: tl.constexpr,
) -> None:  # fmt: skip
    """Program q: the softmax state of query q over its pairs, bound[q] to bound[q + 1], and the pairs' scores."""
    query = tl.program_id(0).to(tl.int64)
    at_D, at_P = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_P)
    query_D = tl.load(query_ptr + query * (D + P) + at_D, mask=at_D < D, other=0.0) * BITS
    query_P = tl.load(query_ptr + query * (D + P) + D + at_P, mask=at_P < P, other=0.0) * BITS
    day = tl.load(day_ptr + query)
    highest = -float("inf")
    total = 0.0
    sum_D = tl.zeros([BLOCK_D], tl.float32)
    sum_P = tl.zeros([BLOCK_P], tl.float32)
    stop = tl.load(bound_ptr + query + 1)
    for start in range(tl.load(bound_ptr + query), stop, BLOCK_C):
        place_C = start + tl.arange(0, BLOCK_C)
        real_C = place_C < stop
        row_C = tl.load(row_ptr + place_C, mask=real_C, other=0)
        item_CD = tl.load(
            vectors_ptr + row_C[:, None] * D + at_D[None, :], mask=real_C[:, None] & (at_D < D)[None, :], other=0.0
        ).to(tl.float32)
        popularity_CP = tl.load(
            popularity_ptr + at_P[None, :] * stride_p + day * stride_t + row_C[:, None] * stride_n,
            mask=real_C[:, None] & (at_P < P)[None, :],
            other=0.0,
        ).to(tl.float32)
        score_C = tl.sum(item_CD * query_D[None, :], 1) + tl.sum(popularity_CP * query_P[None, :], 1)
        score_C += tl.load(extra_ptr + place_C, mask=real_C, other=-float("inf")) * BITS
        tl.store(score_ptr + place_C, score_C, mask=real_C)
        before = highest
        highest = tl.maximum(highest, tl.max(score_C, 0))
        finite = tl.maximum(highest, -3.4028234e38)
        weight_C = tl.exp2(score_C - finite)
        shrink = tl.exp2(before - finite)
        total = total * shrink + tl.sum(weight_C, 0)
        sum_D = sum_D * shrink + tl.sum(weight_C[:, None] * item_CD, 0)
        sum_P = sum_P * shrink + tl.sum(weight_C[:, None] * popularity_CP, 0)
    tl.store(highest_ptr + query, highest)
    tl.store(total_ptr + query, total)
    tl.store(sum_ptr + query * (D + P) + at_D, sum_D, mask=at_D < D)
    tl.store(sum_ptr + query * (D + P) + D + at_P, sum_P, mask=at_P < P)


def scan_pairs(
    queries: Queries, catalogue: ItemVectors, query_M: Tensor, row_M: Tensor, extra_M: Tensor
) -> tuple[SoftmaxState, Tensor]:
    """The state of each query over its pairs alone (sorted by query), and the scores in bits. `extra_M` (nats) is added."""
    num_queries, device = len(queries.vectors_QV), queries.vectors_QV.device
    query_QV = queries.vectors_QV.float().contiguous()
    highest_Q, total_Q = query_QV.new_empty(num_queries), query_QV.new_empty(num_queries)
    sum_QV, score_M = torch.empty_like(query_QV), torch.empty_like(extra_M, dtype=torch.float32)
    if num_queries:
        pairs_kernel[(num_queries,)](
            query_QV,
            queries.day_Q,
            catalogue.vectors_ND.contiguous(),
            catalogue.popularity_PTN,
            torch.searchsorted(query_M, torch.arange(num_queries + 1, device=device)),
            row_M,
            extra_M,
            score_M,
            highest_Q,
            total_Q,
            sum_QV,
            *catalogue.popularity_PTN.stride(),
            **item_shape(catalogue),
            BLOCK_P=triton.next_power_of_2(max(len(catalogue.popularity_PTN), 1)),
            **configuration("softmax_pairs", current_target()),
            BITS=BITS,
        )
    return SoftmaxState(highest_Q, total_Q, sum_QV), score_M
