"""Exact search by a scan: products give an upper bound of every score, and each row that no bound excludes is a candidate.

The rows with the largest bounds are scored. The k-th best of these scores is a floor: a row whose bound is below it cannot be
among the best k. Only the maxima of groups of rows are ranked.

N: items, V: vector width, W: width of a row as it is multiplied, Q: queries, S: rows scanned at once, G: rows of a group,
M: groups, B: groups with the largest maxima, C: candidates
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from twotower.data.features import Floats, Ints

Mask = npt.NDArray[np.bool_]

_QUERIES_AT_ONCE = 64
_SCORES_AT_ONCE = 1 << 23  # 32 MiB
_GROUP_ROWS = 32
_GROUPS_PER_RESULT = 8  # with fewer groups, two of the best rows in one group would lower the floor
_SCORED_AT_ONCE = 65_536
_MANY = 4096
_UNIT = 2.0**-24  # relative rounding error of float32


class Rows(Protocol):
    """Item vectors in the form of a scan: rows and queries of width W, whose products are upper bounds of the scores."""

    @property
    def vectors_NV(self) -> Floats:
        """The vectors themselves, which may be memory-mapped, because few rows of them are read."""

    @property
    def max_norm(self) -> float:
        """Norm of the longest row. The rounding error of products is in proportion to it."""

    @property
    def num_bytes(self) -> int:
        """Bytes that every search reads."""

    def extend(self, queries_QV: Floats) -> Floats:
        """The queries in the form that `multiply` takes, [Q, W]."""

    def multiply(self, queries_QW: Floats, start: int, stop: int, out_QS: Floats) -> None:
        """Write the products of the queries with rows [start, stop) into `out_QS`."""


class Float32Rows:
    """Rows that are scanned as they are, in float32."""

    def __init__(self, vectors_NV: Floats) -> None:
        self.vectors_NV = np.asarray(vectors_NV)  # indexing a memory map is slow
        self.max_norm = max_norm(vectors_NV)

    @property
    def num_bytes(self) -> int:
        """Bytes of the vectors."""
        return self.vectors_NV.nbytes

    def extend(self, queries_QV: Floats) -> Floats:
        """The queries, unchanged."""
        return queries_QV

    def multiply(self, queries_QW: Floats, start: int, stop: int, out_QS: Floats) -> None:
        """Write the products of the queries with rows [start, stop) into `out_QS`."""
        rows_SW = self.vectors_NV[start:stop]
        if len(queries_QW) == 1:  # numpy is faster for one query, torch for several
            np.matmul(rows_SW, queries_QW[0], out=out_QS[0])
        else:
            torch.mm(torch.from_numpy(queries_QW), torch.from_numpy(rows_SW).T, out=torch.from_numpy(out_QS))


def max_norm(rows_NW: Floats) -> float:
    """Norm of the longest row."""
    return float(np.sqrt(np.einsum("nw,nw->n", rows_NW, rows_NW).max(initial=0)))


def exact_scores(vectors_NV: Floats, row_C: Ints, query_V: Floats) -> Floats:
    """Inner products [C] of a query with some rows, summed in float64 and rounded, so that the order of sums does not matter."""
    scores_C = np.empty(len(row_C), np.float32)
    query = query_V.astype(np.float64)
    for start in range(0, len(row_C), _SCORED_AT_ONCE):
        part = slice(start, start + _SCORED_AT_ONCE)
        scores_C[part] = np.einsum("cv,v->c", vectors_NV.take(row_C[part], 0).astype(np.float64), query)
    return scores_C


class Scan:
    """Exact search over rows. Numpy selects on one thread, because the pieces are too small for several."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    @property
    def num_bytes(self) -> int:
        """Bytes that every search reads."""
        return self._rows.num_bytes

    def find(self, queries_QV: Floats, k: int, allowed: Mask | None, without: Sequence[Ints] = ()) -> tuple[Ints, Ints]:
        """Queries and rows of the candidates: every allowed row that may be among the best k, and few others.

        `without` has rows that each query leaves out. For few rows this is less work than a mask.
        """
        found = []
        for start in range(0, len(queries_QV), _QUERIES_AT_ONCE):
            part = slice(start, start + _QUERIES_AT_ONCE)
            query_C, row_C = self._find(queries_QV[part], k, allowed, without[part])
            found.append((query_C + start, row_C))
        return np.concatenate([q for q, _ in found]), np.concatenate([r for _, r in found])

    def _find(self, queries_QV: Floats, k: int, allowed_N: Mask | None, without: Sequence[Ints]) -> tuple[Ints, Ints]:
        queries_QW = self._rows.extend(queries_QV)
        # The error of a sum of V products is at most V units of the product of the norms; the factor leaves room to spare.
        error_Q = 2 * (queries_QV.shape[1] + 8) * _UNIT * self._rows.max_norm * np.linalg.norm(queries_QW, axis=1)
        num_queries, num_rows = len(queries_QW), len(self._rows.vectors_NV)
        parts = -(-num_rows * num_queries // _SCORES_AT_ONCE)
        num_scanned = -(-num_rows // parts)
        group = min(max(num_scanned // (_GROUPS_PER_RESULT * k), 1), _GROUP_ROWS)
        groups = -(-num_scanned // group)
        upper_QS = np.empty((num_queries, group * groups), np.float32)
        floor_Q = np.full(num_queries, np.finfo(np.float32).min)
        found = []
        for start in range(0, num_rows, num_scanned):
            stop = min(start + num_scanned, num_rows)
            self._rows.multiply(queries_QW, start, stop, upper_QS[:, : stop - start])
            upper_QS[:, stop - start :] = -np.inf
            if allowed_N is not None:
                np.copyto(upper_QS[:, : stop - start], -np.inf, where=~allowed_N[start:stop])
            for query, rows in enumerate(without):
                upper_QS[query, rows[(rows >= start) & (rows < stop)] - start] = -np.inf
            upper_QGM = upper_QS.reshape(num_queries, group, groups)
            highest_QM = upper_QGM.max(1)
            for query, query_V in enumerate(queries_QV):
                reached = self._reached(upper_QGM[query], highest_QM[query], k, start, query_V)
                floor_Q[query] = max(floor_Q[query], reached - error_Q[query])
            found.append(_above(upper_QGM, highest_QM, floor_Q, start))
        query_C, row_C, upper_C = (np.concatenate(column) for column in zip(*found, strict=True))
        kept = upper_C >= floor_Q[query_C]
        query_C, row_C = query_C[kept], row_C[kept]
        for query in np.flatnonzero(np.bincount(query_C, minlength=num_queries) > max(_MANY, 2 * k)).tolist():
            mine = query_C == query
            few = self._likely(row_C[mine], queries_QV[query], k, 2 * error_Q[query])
            query_C, row_C = np.append(query_C[~mine], np.full(len(few), query)), np.append(row_C[~mine], few)
        return query_C, row_C

    def _likely(self, row_C: Ints, query_V: Floats, k: int, error: float) -> Ints:
        """Of very many candidates, left by weak bounds, those whose score in float32 may be among the best k."""
        vectors_NV, scores_C = self._rows.vectors_NV, np.empty(len(row_C), np.float32)
        if 2 * len(row_C) > len(vectors_NV):  # then copying them would cost more than multiplying all rows
            (vectors_NV @ query_V).take(row_C, out=scores_C)
        else:
            for start in range(0, len(row_C), _SCORED_AT_ONCE):
                part = slice(start, start + _SCORED_AT_ONCE)
                np.matmul(vectors_NV.take(row_C[part], 0), query_V, out=scores_C[part])
        likely: Ints = row_C[~(scores_C < np.partition(scores_C, len(scores_C) - k)[len(scores_C) - k] - error)]
        return likely

    def _reached(self, upper_GM: Floats, highest_M: Floats, k: int, start: int, query_V: Floats) -> float:
        """A score that at least k of these rows reach; -inf when fewer than k were scored."""
        groups, wanted = len(highest_M), 2 * k  # bounds may be loose, so more rows are scored than needed
        if groups < k:
            return -np.inf
        best_B = np.argpartition(highest_M, groups - wanted)[groups - wanted :] if groups > wanted else np.arange(groups)
        best_B = best_B[highest_M[best_B] > -np.inf]
        if len(best_B) < k:
            return -np.inf
        rows_B = start + upper_GM[:, best_B].argmax(0) * groups + best_B
        scores_B = exact_scores(self._rows.vectors_NV, rows_B, query_V)
        return float(np.partition(scores_B, len(scores_B) - k)[len(scores_B) - k])


def _above(upper_QGM: Floats, highest_QM: Floats, floor_Q: Floats, start: int) -> tuple[Ints, Ints, Floats]:
    """Queries, rows and bounds of all rows whose bound reaches the floor."""
    query_C, group_C = np.nonzero(highest_QM >= floor_Q[:, None])
    upper_CG = upper_QGM[query_C, :, group_C]
    column, place = np.nonzero(upper_CG >= floor_Q[query_C, None])
    return query_C[column], start + place * highest_QM.shape[1] + group_C[column], upper_CG[column, place]
