"""The softmax over frozen candidates on a processor: tile by tile, so that no score leaves its cache.

Q: queries, D: item width, P: popularity dimensions, V: D + P, U: distinct days of the queries,
C: candidates of one tile, B: queries of one tile, M: certain pairs of a query and an item
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from twotower.kernels.frozen_items import Certain, Chunk, FrozenCatalogue, Part, Pool
from twotower.kernels.softmax_state import BITS, SoftmaxState, concatenate, empty_state, finite, merge

TILE_CANDIDATES = 4096  # a tile of scores stays in the processor's cache
TILE_QUERIES = 256
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
    firsts = range(0, max(len(query_QV), 1), TILE_QUERIES)
    states = [empty_state(query_QV[first : first + TILE_QUERIES]) for first in firsts]
    width = catalogue.vectors_ND.shape[1]
    scratch = query_QV.new_empty(
        1 + query_QV.shape[1] - width, min(len(query_QV), TILE_QUERIES) * min(len(part), TILE_CANDIDATES)
    )
    score_M = torch.empty_like(pairs.extra_M)
    by_tile = _pairs_by_tile(pairs, len(part), len(firsts))
    for start in range(0, len(part), TILE_CANDIDATES):
        chunk = part.chunk(catalogue, start, min(start + TILE_CANDIDATES, len(part)), day_Q)
        for block, first in enumerate(firsts):
            here = next(by_tile)
            at_M = (pairs.query_M[here] - first) * len(chunk.items_CD) + pairs.place_M[here] - start
            query_BV = query_QV[first : first + TILE_QUERIES]
            seen, score_M[here] = _score_tile(query_BV, chunk, first, at_M, pairs.extra_M[here], scratch)
            states[block] = merge(states[block], seen)
    return concatenate(states), score_M


def _pairs_by_tile(pairs: Pairs, num_candidates: int, num_blocks: int) -> Iterator[Tensor]:
    """Numbers of the pairs that lie in each tile, candidates outermost."""
    tile_M = pairs.place_M // TILE_CANDIDATES * num_blocks + pairs.query_M // TILE_QUERIES
    sorted_M, order_M = torch.sort(tile_M, stable=True)
    num_tiles = -(-num_candidates // TILE_CANDIDATES) * num_blocks
    bounds = torch.searchsorted(sorted_M, torch.arange(num_tiles + 1, device=sorted_M.device)).tolist()
    return (order_M[start:stop] for start, stop in pairwise(bounds))


def _score_tile(
    query_BV: Tensor, chunk: Chunk, first: int, at_M: Tensor, extra_M: Tensor, scratch: Tensor
) -> tuple[SoftmaxState, Tensor]:
    """The state over one tile, whose first query is number `first`, and the scores of the pairs at its flat places `at_M`.

    The tile lives in `scratch`: fresh memory each time would cost a tenth of the time in page faults.
    """
    (num_candidates, width), num_queries = chunk.items_CD.shape, len(query_BV)
    day_index_B = chunk.day_index_Q[first : first + num_queries]
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
    highest_B = scores_BC.amax(1)
    weights_BC = scores_BC.sub_(finite(highest_B)[:, None]).exp2_()
    sums = [weights_BC @ chunk.items_CD, *(p_BC.mul_(weights_BC).sum(1, keepdim=True) for p_BC in popularity)]
    return SoftmaxState(highest_B, weights_BC.sum(1), torch.cat(sums, 1)), score_M


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
