"""Frozen items, and which of them a softmax is over: a shard of the catalogue, a pool drawn from it, certain pairs.

N: items, D: item width, P: popularity dimensions, V: D + P, T: days, U: distinct days of the queries, Q: queries,
K: candidates, C: candidates of one tile, M: certain pairs of a query and an item
"""

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

ALIGNED = 16  # numbers: a GPU reads four at once where it can tell that rows begin at multiples of this


@dataclass(frozen=True, slots=True)
class FrozenCatalogue:
    """Item vectors that no longer change, and the popularity of every day, which may go on behind the items unread."""

    vectors_ND: Tensor
    popularity_PTN: Tensor

    def items(self, rows_M: Tensor, day_M: Tensor) -> Tensor:
        """Full item vectors [M, V], each on its own day."""
        return torch.cat([self.vectors_ND[rows_M], self.popularity_PTN[:, day_M, rows_M].T], 1)


def aligned(rows: Tensor) -> Tensor:
    """Rows padded with zeros, and laid end to end; the same where they are so."""
    missing = -rows.shape[-1] % ALIGNED
    return (functional.pad(rows, (0, missing)) if missing else rows).contiguous()


class Days:
    """The days of queries, the distinct ones among them, and each query's place among these."""

    def __init__(self, day_Q: Tensor) -> None:
        self.day_Q = day_Q
        self.day_U, self.index_Q = torch.unique(day_Q, return_inverse=True)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Candidates of a tile. `log_weight_C` is added to the scores of all queries but those that hold the item for certain."""

    items_CD: Tensor
    popularity_PUC: Tensor
    day_index_Q: Tensor  # place of each query's day in it
    log_weight_C: Tensor | None


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows start..stop of the catalogue, every one of them."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def columns_of(self, rows_M: Tensor) -> Tensor:
        """Place of each catalogue row among the candidates, by subtraction; -1 where it is none."""
        return torch.where((rows_M >= self.start) & (rows_M < self.stop), rows_M - self.start, -1)

    def chunk(self, catalogue: FrozenCatalogue, start: int, stop: int, days: Days) -> Chunk:
        """Candidates start..stop, as views: nothing is copied."""
        rows = slice(self.start + start, self.start + stop)
        return Chunk(catalogue.vectors_ND[rows], catalogue.popularity_PTN[..., rows], days.day_Q, None)


@dataclass(frozen=True, slots=True)
class Pool:
    """Drawn rows, sorted and distinct; each stands for exp(log_weight) items of its kind."""

    rows_K: Tensor
    log_weight_K: Tensor

    def __len__(self) -> int:
        return len(self.rows_K)

    def columns_of(self, rows_M: Tensor) -> Tensor:
        """Place of each catalogue row among the candidates, by bisection; -1 where it is none."""
        if not len(self):
            return torch.full_like(rows_M, -1)
        column_M = torch.searchsorted(self.rows_K, rows_M).clamp(max=len(self) - 1)
        return torch.where(self.rows_K[column_M] == rows_M, column_M, -1)

    def chunk(self, catalogue: FrozenCatalogue, start: int, stop: int, days: Days) -> Chunk:
        """Candidates start..stop. Vectors are gathered here, a tile at a time: the pool as a whole is never copied."""
        rows_C = self.rows_K[start:stop]
        popularity_PUC = catalogue.popularity_PTN[:, days.day_U[:, None], rows_C]
        vectors_CD = catalogue.vectors_ND.index_select(0, rows_C)
        return Chunk(vectors_CD, popularity_PUC, days.index_Q, self.log_weight_K[start:stop])


Part: TypeAlias = Shard | Pool


@dataclass(frozen=True, slots=True)
class Certain:
    """Pairs of a query and an item of its softmax, whatever was drawn: its past items and its answers. Distinct, by query."""

    query_M: Tensor
    rows_M: Tensor
