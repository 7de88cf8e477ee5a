"""The frozen softmax on a CPU: tile by tile, so that no score leaves the processor's cache.

Q: queries, D: item width, P: popularity dimensions, V: D + P, U: distinct days of the queries,
C: candidates of one tile, B: queries of one tile, M: certain pairs of a query and an item
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from training.kernels.candidates import CandidateSet, Certain, Chunk, Days, ItemVectors, Pool
from training.kernels.softmax_state import BITS, SoftmaxState, concatenate, empty_state, finite, merge
from twotower.model.catalogue import in_parallel

TILE_SCORES = 1 << 19  # 2 MB, which fit the processor's cache
TILE_QUERIES = 1024  # many queries and few items, because items are then read from memory the fewest times
MISSING_QUERIES = 32  # neighbouring queries are of one user, so a user's items are gathered once


def frozen_softmax_reference(
    query_QV: Tensor, extra_M: Tensor, certain: Certain, day_Q: Tensor, catalogue: ItemVectors, candidates: CandidateSet
) -> tuple[SoftmaxState, Tensor]:
    """Tile by tile: the score of a certain pair replaces that of its candidate in the tile where the candidate is."""
    query_QV, extra_M = query_QV * BITS, extra_M * BITS
    score_M = torch.empty_like(extra_M)
    column_M = candidates.columns_of(certain.rows_M)
    inside, outside = torch.nonzero(column_M >= 0)[:, 0], torch.nonzero(column_M < 0)[:, 0]
    pairs = Pairs(certain.query_M[inside], column_M[inside], extra_M[inside])
    state, score_M[inside] = scan(query_QV, pairs, day_Q, catalogue, candidates)
    if len(outside):
        pairs = Pairs(certain.query_M[outside], certain.rows_M[outside], extra_M[outside])
        missing, score_M[outside] = scan_missing(query_QV, pairs, day_Q, catalogue)
        state = merge(state, missing)
    return state, score_M


@dataclass(frozen=True, slots=True)
class Pairs:
    """Certain pairs, with the place of each item: a column of the candidates, or a row of the catalogue."""

    query_M: Tensor
    place_M: Tensor
    extra_M: Tensor

    def ordered(self, order_M: Tensor) -> "Pairs":
        """The pairs in this order."""
        return Pairs(self.query_M[order_M], self.place_M[order_M], self.extra_M[order_M])

    def of(self, here: slice, first_query: int, first_place: int) -> "Pairs":
        """The pairs of a slice, counted from a query and a place on."""
        return Pairs(self.query_M[here] - first_query, self.place_M[here] - first_place, self.extra_M[here])


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles of scores, and the pairs in each; tiles go over the blocks of queries first, then over the candidates."""

    num_candidates: int  # of a tile
    num_queries: int  # of a tile
    num_blocks: int
    order_M: Tensor  # indices of the pairs, tile by tile
    bounds: Sequence[int]  # where each tile begins in `order_M`

    @staticmethod
    def of(pairs: Pairs, num_queries: int, num_candidates: int) -> "Tiles":
        """The tiles for so many queries and candidates."""
        width = TILE_SCORES // max(min(num_queries, TILE_QUERIES), 1)
        num_blocks = -(-num_queries // TILE_QUERIES)
        tile_M = pairs.place_M // width * num_blocks + pairs.query_M // TILE_QUERIES
        sorted_M, order_M = torch.sort(tile_M, stable=True)
        num_tiles = -(-num_candidates // width) * num_blocks
        bounds = torch.searchsorted(sorted_M, torch.arange(num_tiles + 1, device=sorted_M.device)).tolist()
        return Tiles(min(width, num_candidates), min(num_queries, TILE_QUERIES), num_blocks, order_M, bounds)

    @property
    def num_scores(self) -> int:
        """The scores of a tile."""
        return self.num_candidates * self.num_queries

    def spans(self, num_candidates: int) -> Iterator[tuple[int, int]]:
        """The candidates of each column of tiles."""
        width = max(self.num_candidates, 1)
        return ((start, min(start + width, num_candidates)) for start in range(0, num_candidates, width))

    def pairs_of(self, number: int, first_query: int) -> slice:
        """Where in the order the pairs of one tile are: of a column of tiles, and of the block that begins with a query."""
        tile = number * self.num_blocks + first_query // TILE_QUERIES
        return slice(self.bounds[tile], self.bounds[tile + 1])


def scan(
    query_QV: Tensor, pairs: Pairs, day_Q: Tensor, catalogue: ItemVectors, candidates: CandidateSet
) -> tuple[SoftmaxState, Tensor]:
    """The state over all candidates, and the scores of the pairs, whose places are columns of the candidates."""
    days, width = Days(day_Q), catalogue.vectors_ND.shape[1]
    tiles = Tiles.of(pairs, len(query_QV), len(candidates))
    blocks = [_Block(query_QV[start : start + TILE_QUERIES], start, width) for start in range(0, len(query_QV), TILE_QUERIES)]
    pairs, ordered_M = pairs.ordered(tiles.order_M), torch.empty_like(pairs.extra_M)
    # A thread takes whole blocks of queries. If threads shared each operation, they would wait for each other ten times a tile.
    num_threads = min(torch.get_num_threads(), len(blocks))

    @torch.no_grad()  # which other threads do not inherit
    def scan_blocks(some: Sequence[_Block]) -> None:
        scratch = query_QV.new_empty(1 + len(catalogue.popularity_PTN), tiles.num_scores)
        for number, (start, stop) in enumerate(tiles.spans(len(candidates))):
            chunk = candidates.chunk(catalogue, start, stop, days)
            for block in some:
                here = tiles.pairs_of(number, block.start)
                ordered_M[here] = block.add_chunk(chunk, pairs.of(here, block.start, start), scratch)

    if num_threads > 1:
        deque(in_parallel(scan_blocks, [blocks[thread::num_threads] for thread in range(num_threads)]), maxlen=0)
    elif blocks:
        scan_blocks(blocks)
    state = concatenate([block.state for block in blocks]) if blocks else empty_state(query_QV)
    return state, torch.empty_like(ordered_M).index_copy_(0, tiles.order_M, ordered_M)


class _Block:
    """Some of the queries, and their softmax over the tiles added so far."""

    def __init__(self, query_BV: Tensor, start: int, width: int) -> None:
        self.start = start  # the first of the queries
        self._query_BD, self._query_BP = query_BV[:, :width].contiguous(), query_BV[:, width:]
        self._state = empty_state(self._query_BD)
        self._popularity_BP = torch.zeros_like(self._query_BP)

    @property
    def state(self) -> SoftmaxState:
        """The softmax over the tiles added so far."""
        sum_BV = torch.cat([self._state.sum_QV, self._popularity_BP], 1)
        return SoftmaxState(self._state.highest_Q, self._state.total_Q, sum_BV)

    def add_chunk(self, chunk: Chunk, pairs: Pairs, scratch: Tensor) -> Tensor:
        """Add the candidates of a chunk, and return the scores of the certain pairs among them."""
        day_index_B = chunk.day_index_Q[self.start : self.start + len(self._query_BD)]
        scores_BC, *popularity = self.score(chunk, day_index_B, scratch)
        at_M = pairs.query_M, pairs.place_M
        score_M = scores_BC[at_M] + pairs.extra_M
        if chunk.log_weight_C is not None:
            scores_BC.add_(chunk.log_weight_C, alpha=BITS)
        scores_BC[at_M] = score_M
        self.add(scores_BC, chunk.items_CD, popularity)
        return score_M

    def score(self, chunk: Chunk, day_index_B: Tensor, scratch: Tensor) -> list[Tensor]:
        """The scores of a tile and each popularity dimension of it, all [B, C], written into `scratch`.

        The memory is reused because allocating it anew for each tile would cost a tenth of the time in page faults.
        """
        shape = len(self._query_BD), len(chunk.items_CD)
        scores_BC, *popularity = (page[: shape[0] * shape[1]].view(shape) for page in scratch)
        torch.mm(self._query_BD, chunk.items_CD.T, out=scores_BC)
        for query_B, popularity_UC, popularity_BC in zip(self._query_BP.T, chunk.popularity_PUC, popularity, strict=True):
            torch.index_select(popularity_UC, 0, day_index_B, out=popularity_BC)
            scores_BC.addcmul_(query_B[:, None], popularity_BC)
        return [scores_BC, *popularity]

    def add(self, scores_BC: Tensor, items_CD: Tensor, popularity: list[Tensor]) -> None:
        """Add a tile to the softmax. Overwrites `scores_BC` and `popularity`."""
        state = self._state
        highest_B = torch.maximum(state.highest_Q, scores_BC.amax(1))
        reference_B = finite(highest_B)
        weights_BC = scores_BC.sub_(reference_B[:, None]).exp2_()
        shrink_B1 = (state.highest_Q - reference_B).exp2_()[:, None]
        state.highest_Q.copy_(highest_B)
        state.total_Q.mul_(shrink_B1[:, 0]).add_(weights_BC.sum(1))
        state.sum_QV.mul_(shrink_B1).addmm_(weights_BC, items_CD)
        self._popularity_BP.mul_(shrink_B1)
        for sum_B, popularity_BC in zip(self._popularity_BP.T, popularity, strict=True):
            sum_B += popularity_BC.mul_(weights_BC).sum(1)


def scan_missing(query_QV: Tensor, pairs: Pairs, day_Q: Tensor, catalogue: ItemVectors) -> tuple[SoftmaxState, Tensor]:
    """The state over the pairs alone, whose places are rows of the catalogue, and their scores.

    A block of queries scores a pool of all its pairs' items. Their log weight is -inf, so only a query's own pairs count.
    """
    states, scores = [], []
    bounds = torch.searchsorted(
        pairs.query_M, torch.arange(0, len(query_QV) + MISSING_QUERIES, MISSING_QUERIES, device=day_Q.device)
    )
    for first, (start, stop) in zip(range(0, len(query_QV), MISSING_QUERIES), pairwise(bounds.tolist()), strict=True):
        here, of_block = slice(start, stop), slice(first, first + MISSING_QUERIES)
        rows_K, column_M = torch.unique(pairs.place_M[here], return_inverse=True)
        weightless = Pool(rows_K, query_QV.new_full((len(rows_K),), -torch.inf))
        placed = Pairs(pairs.query_M[here] - first, column_M, pairs.extra_M[here])
        state, score_M = scan(query_QV[of_block], placed, day_Q[of_block], catalogue, weightless)
        states.append(state)
        scores.append(score_M)
    return concatenate(states), torch.cat(scores)
