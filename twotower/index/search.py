"""One search for all kinds of index: a kind names candidate rows, and their scores are computed here.

N: items, V: vector width, Q: queries, K: results, C: candidates, named as pairs of a query and a row
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from twotower.data.features import Floats, Ints
from twotower.index.scan import Float32Rows, Mask, Scan, exact_scores

# With so few allowed rows, these are copied and scanned, whatever the kind.
FEW_ROWS, FEW_SHARE = 65_536, 1 / 8


class Finder(Protocol):
    """A kind of index."""

    @property
    def num_bytes(self) -> int:
        """Bytes of memory that it holds."""

    def find(self, queries_QV: Floats, k: int, allowed: Mask | None) -> tuple[Ints, Ints]:
        """Queries and rows of the candidates, [C] and [C], in any order; allowed rows only, each at most once for a query.

        `allowed` is [N] and holds for every query; None allows all rows. An exact kind leaves out no row that could be among
        the best k.
        """


class OmittingFinder(Finder, Protocol):
    """A kind that also takes a few rows that each query leaves out, as every exact kind does."""

    def find(self, queries_QV: Floats, k: int, allowed: Mask | None, without: Sequence[Ints] = ()) -> tuple[Ints, Ints]:
        """As `Finder.find`. `without` has the rows to leave out for each query, or is empty; with it `allowed` is None."""


@dataclass(frozen=True, slots=True)
class Index:
    """Item vectors and a way to find the best of them."""

    kind: str
    vectors_NV: Floats  # may be memory-mapped, because most kinds read only the candidates of it
    finder: Finder
    exact: OmittingFinder  # `finder` itself for an exact kind; else the scan used when `finder` finds too few rows
    omitting: OmittingFinder | None = None  # `finder` itself, if it is approximate and takes rows to leave out

    def __len__(self) -> int:
        return len(self.vectors_NV)

    def search(
        self, queries_QV: Floats, k: int, allowed: Mask | None = None, without: Sequence[Ints] | None = None
    ) -> tuple[Ints, Floats]:
        """Rows and scores [Q, K] of the best k allowed rows, best first; equal scores by the lower row.

        `k` is at least 1. Either `allowed` is a mask [N] for every query, or `without` has the few rows that each query leaves
        out. Where fewer than k rows are allowed, row -1 and score -inf fill the list. A score is the exact product rounded to
        float32: the same in every kind, batch and mask.
        """
        queries_QV = np.ascontiguousarray(queries_QV, np.float32)
        if without is not None:
            if self.finder is self.exact:
                return self._best(queries_QV, k, *self.exact.find(queries_QV, min(k, len(self)), None, without))
            if self.omitting is not None:
                return self._search_omitting(self.omitting, queries_QV, k, without)
            answers = [self.search(query_V[None], k, self._but(rows)) for query_V, rows in zip(queries_QV, without, strict=True)]
            return np.concatenate([rows for rows, _ in answers]), np.concatenate([scores for _, scores in answers])
        num_allowed = len(self) if allowed is None else int(np.count_nonzero(allowed))
        if allowed is not None and num_allowed <= min(FEW_ROWS, FEW_SHARE * len(self)):
            return self._search_few(queries_QV, k, np.flatnonzero(allowed))
        rows_QK, scores_QK = self._best(queries_QV, k, *self.finder.find(queries_QV, min(k, len(self)), allowed))
        if self.finder is not self.exact:
            short = np.count_nonzero(rows_QK >= 0, 1) < min(k, num_allowed)
            if short.any():
                queries_QV = queries_QV[short]
                found = self.exact.find(queries_QV, min(k, len(self)), allowed)
                rows_QK[short], scores_QK[short] = self._best(queries_QV, k, *found)
        return rows_QK, scores_QK

    def _search_omitting(
        self, finder: OmittingFinder, queries_QV: Floats, k: int, without: Sequence[Ints]
    ) -> tuple[Ints, Floats]:
        """As `search`, of all queries at once. Those for which the finder finds too few rows are searched exactly."""
        rows_QK, scores_QK = self._best(queries_QV, k, *finder.find(queries_QV, min(k, len(self)), None, without))
        allowed_Q = np.array([len(self) - len(np.unique(rows)) for rows in without])
        short = np.flatnonzero(np.count_nonzero(rows_QK >= 0, 1) < np.minimum(k, allowed_Q))
        if len(short):
            queries_QV = queries_QV[short]
            found = self.exact.find(queries_QV, min(k, len(self)), None, [without[query] for query in short.tolist()])
            rows_QK[short], scores_QK[short] = self._best(queries_QV, k, *found)
        return rows_QK, scores_QK

    def _but(self, rows: Ints) -> Mask:
        """A mask of all rows but these, [N]."""
        allowed_N = np.ones(len(self), bool)
        allowed_N[rows] = False
        return allowed_N

    def _search_few(self, queries_QV: Floats, k: int, rows: Ints) -> tuple[Ints, Floats]:
        """As `search`, among these rows only."""
        if not len(rows):
            return self._best(queries_QV, k, np.zeros(0, np.int64), np.zeros(0, np.int64))
        query_C, place_C = Scan(Float32Rows(self.vectors_NV[rows])).find(queries_QV, min(k, len(rows)), None)
        return self._best(queries_QV, k, query_C, rows[place_C])

    def _best(self, queries_QV: Floats, k: int, query_C: Ints, row_C: Ints) -> tuple[Ints, Floats]:
        """Score the candidates exactly and return the best k of each query."""
        rows_QK = np.full((len(queries_QV), k), -1, np.int64)
        scores_QK = np.full((len(queries_QV), k), -np.inf, np.float32)
        row_C = row_C[np.argsort(query_C, kind="stable")]
        starts = np.concatenate([[0], np.cumsum(np.bincount(query_C, minlength=len(queries_QV)))])
        for query, (start, stop) in enumerate(pairwise(starts)):
            rows = row_C[start:stop]
            scores = exact_scores(self.vectors_NV, rows, queries_QV[query])
            order = np.lexsort((rows, -scores))[:k]
            rows_QK[query, : len(order)], scores_QK[query, : len(order)] = rows[order], scores[order]
        return rows_QK, scores_QK
