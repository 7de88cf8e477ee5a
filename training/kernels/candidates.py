"""The item vectors that are scored, and which of them a softmax is over: the whole catalogue, or a pool drawn from it.

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
class ItemVectors:
    """Item vectors, and their log popularity on every day. Popularity may have extra columns at the end, which are not read."""

    vectors_ND: Tensor
    popularity_PTN: Tensor

    def items(self, rows_M: Tensor, day_M: Tensor) -> Tensor:
        """Full item vectors [M, V], each on its own day."""
        return torch.cat([self.vectors_ND[rows_M], self.popularity_PTN[:, day_M, rows_M].T], 1)


def aligned(rows: Tensor) -> Tensor:
    """The tensor, contiguous and its last dimension padded with zeros to a multiple of ALIGNED; copied only if it must be."""
    missing = -rows.shape[-1] % ALIGNED
    return (functional.pad(rows, (0, missing)) if missing else rows).contiguous()


class Days:
    """The day of each query, the distinct days, and the index of each query's day among the distinct ones."""

    def __init__(self, day_Q: Tensor) -> None:
        self.day_Q = day_Q
        self.day_U, self.index_Q = torch.unique(day_Q, return_inverse=True)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The candidates of a tile. `log_weight_C` is added to the score of every query for which the item is not certain."""

    items_CD: Tensor
    popularity_PUC: Tensor
    day_index_Q: Tensor  # which of its U days is the day of each query
    log_weight_C: Tensor | None


@dataclass(frozen=True, slots=True)
class WholeCatalogue:
    """Every item is a candidate, so the softmax is exact."""

    num_items: int

    def __len__(self) -> int:
        return self.num_items

    def columns_of(self, rows_M: Tensor) -> Tensor:
        """The column of each catalogue row among the candidates: the row itself."""
        return rows_M

    def chunk(self, catalogue: ItemVectors, start: int, stop: int, days: Days) -> Chunk:
        """Candidates start..stop, as views: nothing is copied."""
        return Chunk(catalogue.vectors_ND[start:stop], catalogue.popularity_PTN[..., start:stop], days.day_Q, None)


@dataclass(frozen=True, slots=True)
class Pool:
    """Drawn catalogue rows, sorted and distinct. Each counts exp(log_weight) times in the sum of exponentials."""

    rows_K: Tensor
    log_weight_K: Tensor

    def __len__(self) -> int:
        return len(self.rows_K)

    def columns_of(self, rows_M: Tensor) -> Tensor:
        """The column of each catalogue row among the candidates, found by bisection; -1 where the row was not drawn."""
        if not len(self):
            return torch.full_like(rows_M, -1)
        column_M = torch.searchsorted(self.rows_K, rows_M).clamp(max=len(self) - 1)
        return torch.where(self.rows_K[column_M] == rows_M, column_M, -1)

    def chunk(self, catalogue: ItemVectors, start: int, stop: int, days: Days) -> Chunk:
        """Candidates start..stop. Vectors are gathered tile by tile, so the pool as a whole is never copied."""
        rows_C = self.rows_K[start:stop]
        popularity_PUC = catalogue.popularity_PTN[:, days.day_U[:, None], rows_C]
        vectors_CD = catalogue.vectors_ND.index_select(0, rows_C)
        return Chunk(vectors_CD, popularity_PUC, days.index_Q, self.log_weight_K[start:stop])


CandidateSet: TypeAlias = WholeCatalogue | Pool


@dataclass(frozen=True, slots=True)
class Certain:
    """Pairs of a query and an item that is always in its softmax: its past items and its answers. Distinct, sorted by query."""

    query_M: Tensor
    rows_M: Tensor
