"""The softmax over frozen candidates on a processor: tile by tile, so that no score leaves its cache.

Q: queries, D: item width, P: popularity dimensions, V: D + P, U: distinct days of the queries,
C: candidates of one tile, B: queries of one tile, M: certain pairs of a query and an item
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from twotower.kernels.frozen_items import Certain, Chunk, Days, FrozenCatalogue, Part, Pool
from twotower.kernels.softmax_state import BITS, SoftmaxState, concatenate, empty_state, finite, merge

TILE_SCORES = 1 << 19  # 2 MB stay in the processor's cache
TILE_QUERIES = 1024  # most of it: items are then read the fewest times
MISSING_QUERIES = 32  # neighbours are of one user, whose items are then gathered once


def sampled_softmax_reference(
    query_QV: Tensor, extra_M: Tensor, certain: Certain, day_Q: Tensor, catalogue: FrozenCatalogue, parts: Sequence[Part]
) -> tuple[SoftmaxState, Tensor]:
    """Tile by tile; a certain item's score is replaced where its tile is."""
    query_QV, extra_M = query_QV * BITS, extra_M * BITS
    state, score_M = empty_state(query_QV), torch.empty_like(extra_M)
    missing_M = torch.ones_like(certain.rows_M, dtype=torch.bool)
    for part in parts:
        column_M = part.columns_of(certain.rows_M)
        inside = torch.nonzero(column_M >= 0)[:, 0]
        pairs = Pairs(certain.query_M[inside], column_M[inside], extra_M[inside])
        seen, score_M[inside] = scan(query_QV, pairs, day_Q, catalogue, part)
        state, missing_M[inside] = merge(state, seen), False
    outside = torch.nonzero(missing_M)[:, 0]
    if len(outside):
        pairs = Pairs(certain.query_M[outside], certain.rows_M[outside], extra_M[outside])
        seen, score_M[outside] = scan_missing(query_QV, pairs, day_Q, catalogue)
        state = merge(state, seen)
    return state, score_M


@dataclass(frozen=True, slots=True)
class Pairs:
    """Certain items and where they are: columns of a part, or rows of the catalogue."""

    query_M: Tensor
    place_M: Tensor
    extra_M: Tensor


def scan(query_QV: Tensor, pairs: Pairs, day_Q: Tensor, catalogue: FrozenCatalogue, part: Part) -> tuple[SoftmaxState, Tensor]:
    """The state over all of `part`, and the scores of the pairs, which are columns of it."""
    num_queries, days = min(len(query_QV), TILE_QUERIES), Days(day_Q)
    num_candidates = TILE_SCORES // max(num_queries, 1)
    blocks = [slice(first, first + TILE_QUERIES) for first in range(0, len(query_QV), TILE_QUERIES)]
    state, score_M = empty_state(query_QV), torch.empty_like(pairs.extra_M)
    views = [SoftmaxState(state.highest_Q[rows], state.total_Q[rows], state.sum_QV[rows]) for rows in blocks]
    scratch = query_QV.new_empty(1 + len(catalogue.popularity_PTN), num_queries * min(len(part), num_candidates))
    by_tile = _pairs_by_tile(pairs, len(part), num_candidates, len(blocks))
    for start in range(0, len(part), num_candidates):
        chunk = part.chunk(catalogue, start, min(start + num_candidates, len(part)), days)
        for rows, seen in zip(blocks, views, strict=True):
            here = next(by_tile)
            at_M = (pairs.query_M[here] - rows.start) * len(chunk.items_CD) + pairs.place_M[here] - start
            score_M[here] = _add_tile(seen, query_QV[rows], chunk, chunk.day_index_Q[rows], at_M, pairs.extra_M[here], scratch)
    return state, score_M


def _pairs_by_tile(pairs: Pairs, num_candidates: int, tile_candidates: int, num_blocks: int) -> Iterator[Tensor]:
    """Numbers of the pairs that lie in each tile, candidates outermost."""
    tile_M = pairs.place_M // tile_candidates * num_blocks + pairs.query_M // TILE_QUERIES
    sorted_M, order_M = torch.sort(tile_M, stable=True)
    num_tiles = -(-num_candidates // tile_candidates) * num_blocks
    bounds = torch.searchsorted(sorted_M, torch.arange(num_tiles + 1, device=sorted_M.device)).tolist()
    return (order_M[start:stop] for start, stop in pairwise(bounds))


def _add_tile(
    seen: SoftmaxState, query_BV: Tensor, chunk: Chunk, day_index_B: Tensor, at_M: Tensor, extra_M: Tensor, scratch: Tensor
) -> Tensor:
    """Add a tile to what its queries have seen; returns the scores of the pairs, which are at its flat places `at_M`.

    The tile lives in `scratch`: fresh memory each time would cost a tenth of the time in page faults.
    """
    (num_candidates, width), num_queries = chunk.items_CD.shape, len(query_BV)
    scores_BC, *popularity = scratch[:, : num_queries * num_candidates].view(len(scratch), num_queries, num_candidates).unbind()
    torch.mm(query_BV[:, :width], chunk.items_CD.T, out=scores_BC)
    for p, (popularity_UC, popularity_BC) in enumerate(zip(chunk.popularity_PUC, popularity, strict=True)):
        torch.index_select(popularity_UC, 0, day_index_B, out=popularity_BC)
        scores_BC.addcmul_(query_BV[:, width + p, None], popularity_BC)
    flat = scores_BC.view(-1)
    score_M = flat[at_M] + extra_M
    if chunk.log_weight_C is not None:
        scores_BC.add_(chunk.log_weight_C, alpha=BITS)
    flat[at_M] = score_M
    highest_B = torch.maximum(seen.highest_Q, scores_BC.amax(1))
    weights_BC = scores_BC.sub_(finite(highest_B)[:, None]).exp2_()
    shrink_B = (seen.highest_Q - finite(highest_B)).exp2()
    seen.highest_Q.copy_(highest_B)
    seen.total_Q.mul_(shrink_B).add_(weights_BC.sum(1))
    seen.sum_QV.mul_(shrink_B[:, None])
    seen.sum_QV[:, :width].addmm_(weights_BC, chunk.items_CD)
    for p, popularity_BC in enumerate(popularity):
        seen.sum_QV[:, width + p] += popularity_BC.mul_(weights_BC).sum(1)
    return score_M


def scan_missing(query_QV: Tensor, pairs: Pairs, day_Q: Tensor, catalogue: FrozenCatalogue) -> tuple[SoftmaxState, Tensor]:
    """The state over the pairs alone, which are rows of the catalogue, and their scores: pools where all else weighs nothing."""
    states, scores = [], []
    bounds = torch.searchsorted(
        pairs.query_M, torch.arange(0, len(query_QV) + MISSING_QUERIES, MISSING_QUERIES, device=day_Q.device)
    )
    for first, (start, stop) in zip(range(0, len(query_QV), MISSING_QUERIES), pairwise(bounds.tolist()), strict=True):
        here, of_block = slice(start, stop), slice(first, first + MISSING_QUERIES)
        rows_K, column_M = torch.unique(pairs.place_M[here], return_inverse=True)
        nothing = Pool(rows_K, query_QV.new_full((len(rows_K),), -torch.inf))
        placed = Pairs(pairs.query_M[here] - first, column_M, pairs.extra_M[here])
        state, score_M = scan(query_QV[of_block], placed, day_Q[of_block], catalogue, nothing)
        states.append(state)
        scores.append(score_M)
    return concatenate(states), torch.cat(scores)
