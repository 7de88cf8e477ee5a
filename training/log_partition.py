"""log of the sum of exp(score) over frozen candidates, with its gradient, in one pass that never holds the scores.

Frozen candidates make this attention whose values are its keys: the online softmax (Milakov & Gimelshein 2018) that adds
up the exponentials also adds up the candidates they weigh, and that mean is the gradient with respect to the query. No
score outlives its tile. States merge exactly, so tiles, shards and ranks may each see a part of the candidates. Inside,
scores are in bits: 2^x costs half of e^x.

Q: queries, N: items, D: item width, P: popularity dimensions, V: D + P, T: days, U: distinct days of the queries,
K: candidates, C: candidates of one tile, B: queries of one tile, M: certain pairs of a query and an item
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

TILE_CANDIDATES = 4096  # a tile of scores stays in the processor's cache
TILE_QUERIES = 256
BITS = 1 / math.log(2)  # in a nat
MISSING_QUERIES = 32  # neighbours are of one user, whose items are then gathered once


@dataclass(frozen=True, slots=True)
class SoftmaxState:
    """A softmax over the candidates seen so far: highest score (bits), the sum of 2^(score - highest), of that times item."""

    highest_Q: Tensor
    total_Q: Tensor
    sum_QV: Tensor

    @property
    def log_partition_Q(self) -> Tensor:
        """log of the sum of exp(score), in nats."""
        return (self.highest_Q + self.total_Q.log2()) * math.log(2)

    @property
    def mean_QV(self) -> Tensor:
        """The items' mean under the softmax: the gradient of the log partition with respect to the query."""
        return self.sum_QV / self.total_Q[:, None]


def empty_state(query_QV: Tensor) -> SoftmaxState:
    """No candidate seen."""
    zero_Q = query_QV.new_zeros(len(query_QV))
    return SoftmaxState(zero_Q - torch.inf, zero_Q, torch.zeros_like(query_QV))


def merge(a: SoftmaxState, b: SoftmaxState) -> SoftmaxState:
    """The state over both sets of candidates, which must not overlap."""
    highest_Q = torch.maximum(a.highest_Q, b.highest_Q)
    a_Q, b_Q = ((state.highest_Q - finite(highest_Q)).exp2() for state in (a, b))
    return SoftmaxState(
        highest_Q, a.total_Q * a_Q + b.total_Q * b_Q, torch.addcmul(a.sum_QV * a_Q[:, None], b.sum_QV, b_Q[:, None])
    )


def concatenate(states: Sequence[SoftmaxState]) -> SoftmaxState:
    """States of different queries, one after the other."""
    return SoftmaxState(*(torch.cat([getattr(state, name) for state in states]) for name in ("highest_Q", "total_Q", "sum_QV")))


def finite(highest_Q: Tensor) -> Tensor:
    """What may be subtracted from scores, also where every one of them is -inf."""
    return highest_Q.clamp(min=torch.finfo(highest_Q.dtype).min)


@dataclass(frozen=True, slots=True)
class FrozenCatalogue:
    """Item vectors that no longer change, and the popularity of every day."""

    vectors_ND: Tensor
    popularity_PTN: Tensor

    def items(self, rows_M: Tensor, day_M: Tensor) -> Tensor:
        """Full item vectors [M, V], each on its own day."""
        return torch.cat([self.vectors_ND[rows_M], self.popularity_PTN[:, day_M, rows_M].T], 1)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Candidates of a tile. `log_weight_C` is added to the scores of all queries but those that hold the item for certain."""

    items_CD: Tensor
    popularity_PUC: Tensor
    day_index_Q: Tensor  # place of each query's day in it
    log_weight_C: Tensor | None


class Part(Protocol):
    """Some or all of the candidates."""

    def __len__(self) -> int:
        """How many."""

    def columns_of(self, rows_M: Tensor) -> Tensor:
        """Place of each catalogue row among the candidates; -1 where it is none."""

    def chunk(self, catalogue: FrozenCatalogue, start: int, stop: int, day_Q: Tensor) -> Chunk:
        """Candidates start..stop."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows start..stop of the catalogue, every one of them."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def columns_of(self, rows_M: Tensor) -> Tensor:
        """By subtraction."""
        return torch.where((rows_M >= self.start) & (rows_M < self.stop), rows_M - self.start, -1)

    def chunk(self, catalogue: FrozenCatalogue, start: int, stop: int, day_Q: Tensor) -> Chunk:
        """Views: nothing is copied."""
        rows = slice(self.start + start, self.start + stop)
        return Chunk(catalogue.vectors_ND[rows], catalogue.popularity_PTN[..., rows], day_Q, None)


@dataclass(frozen=True, slots=True)
class Pool:
    """Drawn rows, sorted and distinct; each stands for exp(log_weight) items of its kind."""

    rows_K: Tensor
    log_weight_K: Tensor

    def __len__(self) -> int:
        return len(self.rows_K)

    def columns_of(self, rows_M: Tensor) -> Tensor:
        """By bisection."""
        if not len(self):
            return torch.full_like(rows_M, -1)
        column_M = torch.searchsorted(self.rows_K, rows_M).clamp(max=len(self) - 1)
        return torch.where(self.rows_K[column_M] == rows_M, column_M, -1)

    def chunk(self, catalogue: FrozenCatalogue, start: int, stop: int, day_Q: Tensor) -> Chunk:
        """Vectors are gathered here, a tile at a time: the pool as a whole is never copied."""
        rows_C = self.rows_K[start:stop]
        days_U, day_index_Q = torch.unique(day_Q, return_inverse=True)
        popularity_PUC = catalogue.popularity_PTN[:, days_U[:, None], rows_C]
        return Chunk(catalogue.vectors_ND.index_select(0, rows_C), popularity_PUC, day_index_Q, self.log_weight_K[start:stop])


@dataclass(frozen=True, slots=True)
class Certain:
    """Pairs of a query and an item of its softmax, whatever was drawn: its own items and its answers. Distinct, by query."""

    query_M: Tensor
    rows_M: Tensor


def log_partition(
    query_QV: Tensor, extra_M: Tensor, certain: Certain, day_Q: Tensor, catalogue: FrozenCatalogue, parts: Sequence[Part]
) -> Tensor:
    """log of the sum of exp(score) for every query, [Q], over the union of the disjoint `parts` and its certain items.

    score = <query, [item vector, popularity on the query's day]> + (the candidate's log weight, or `extra_M` if certain).
    Gradients flow to `query_QV` and `extra_M`. Memory is O(Q V + M) and some tiles, whatever the number of candidates.
    """
    with torch.autocast(query_QV.device.type, enabled=False):
        return _LogPartition.apply(query_QV, extra_M, certain, day_Q, catalogue, parts)  # type: ignore[no-any-return, no-untyped-call]


class _LogPartition(torch.autograd.Function):
    """The forward pass makes both gradients on its way."""

    @staticmethod
    def forward(
        ctx: Any,
        query_QV: Tensor,
        extra_M: Tensor,
        certain: Certain,
        day_Q: Tensor,
        catalogue: FrozenCatalogue,
        parts: Sequence[Part],
    ) -> Tensor:
        """Returns [Q]."""
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
        probability_M = (score_M - state.highest_Q[certain.query_M]).exp2() / state.total_Q[certain.query_M]
        ctx.save_for_backward(state.mean_QV, probability_M, certain.query_M)
        return state.log_partition_Q

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, ...]:
        """d/dquery is the mean item, d/dextra the item's probability."""
        mean_QV, probability_M, query_M = ctx.saved_tensors
        return grad[0][:, None] * mean_QV, grad[0][query_M] * probability_M, None, None, None, None


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
