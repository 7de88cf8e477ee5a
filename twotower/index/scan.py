"""Exact search by scanning: float32 products bound every score, and every row that no bound rules out is named.

The k-th largest lower bound is one that the k-th best score cannot be under, and a row whose upper bound is under it cannot be
among the best k. Only the maxima of groups are ranked: k groups with a member above a floor are k rows above it.

N: items, V: vector width, D: embedding width, P: V - D, W: width of a row as it is multiplied, Q: queries, S: rows scanned at
once, G: rows of a group, M: groups, C: candidates
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from twotower.features import Floats, Ints

Mask = npt.NDArray[np.bool_]

_QUERIES_AT_ONCE = 64
_SCORES_AT_ONCE = 1 << 23  # 32 MiB
_GROUP_ROWS = 32
_GROUPS_PER_RESULT = 8  # with fewer, groups with two of the best rows would make the floor low
_UNIT = 2.0**-24  # of float32's rounding


class Rows(Protocol):
    """Item vectors as a scan reads them: rows and queries, both W wide, whose products are lower bounds of scores."""

    @property
    def max_norm(self) -> float:
        """Norm of the longest row: the products are off by rounding, in proportion to it."""

    @property
    def doubt_N(self) -> npt.NDArray[np.float16] | None:
        """Upper less lower bound of each row, of a query of norm 1; None without doubt."""

    def __len__(self) -> int:
        """Items."""

    @property
    def num_bytes(self) -> int:
        """Memory it holds on to."""

    def extend(self, queries_QV: Floats) -> tuple[Floats, Floats]:
        """Queries [Q, W], and the norms [Q] that `doubt_N` is multiplied with."""

    def multiply(self, queries_QW: Floats, start: int, stop: int, out_SQ: Floats) -> None:
        """Write the products of some rows."""


class Float32Rows:
    """The vectors themselves."""

    doubt_N = None

    def __init__(self, vectors_NV: Floats) -> None:
        self._vectors_NV = np.asarray(vectors_NV)  # indexing a memory map is slow
        self.max_norm = max_norm(vectors_NV)

    def __len__(self) -> int:
        return len(self._vectors_NV)

    @property
    def num_bytes(self) -> int:
        """Memory it holds on to, the file's pages included: every search reads them all."""
        return self._vectors_NV.nbytes

    def extend(self, queries_QV: Floats) -> tuple[Floats, Floats]:
        """The queries as they are."""
        return queries_QV, np.zeros(len(queries_QV), np.float32)

    def multiply(self, queries_QW: Floats, start: int, stop: int, out_SQ: Floats) -> None:
        """Write the products of some rows."""
        rows_SW = self._vectors_NV[start:stop]
        if len(queries_QW) == 1:  # numpy is the faster at matrix times vector, torch at matrix times matrix
            np.matmul(rows_SW, queries_QW[0], out=out_SQ[:, 0])
        else:
            torch.mm(torch.from_numpy(rows_SW), torch.from_numpy(queries_QW).T, out=torch.from_numpy(out_SQ))


def max_norm(rows_NW: Floats) -> float:
    """Of the longest row."""
    return float(np.sqrt(np.einsum("nw,nw->n", rows_NW, rows_NW).max(initial=0)))


class Scan:
    """Exact search over rows. Numpy selects on one thread: the pieces are small, and threads would wait for one another."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    @property
    def num_bytes(self) -> int:
        """Memory its rows take."""
        return self._rows.num_bytes

    def find(
        self, queries_QV: Floats, k: int, allowed: Mask | None, without: Sequence[Ints] = ()
    ) -> tuple[Ints, Ints]:
        """Queries and rows of the candidates: every allowed row that may be among the best k, and few others.

        `without` may name rows that each query leaves out: where they are few that is less work than a mask.
        """
        found = []
        for start in range(0, len(queries_QV), _QUERIES_AT_ONCE):
            part = slice(start, start + _QUERIES_AT_ONCE)
            mask = None if allowed is None else np.atleast_2d(allowed)[part if allowed.ndim == 2 else slice(None)]
            query_C, row_C = self._find(queries_QV[part], k, mask, without[part])
            found.append((query_C + start, row_C))
        return np.concatenate([q for q, _ in found]), np.concatenate([r for _, r in found])

    def _find(
        self, queries_QV: Floats, k: int, allowed_QN: Mask | None, without: Sequence[Ints]
    ) -> tuple[Ints, Ints]:
        queries_QW, norm_Q = self._rows.extend(queries_QV)
        # A sum of W products is off by at most W units of the norms' product; the rest of the factor is to spare.
        error_Q = 2 * (queries_QW.shape[1] + 8) * _UNIT * self._rows.max_norm * np.linalg.norm(queries_QW, axis=1)
        num_queries, num_rows = len(queries_QW), len(self._rows)
        parts = -(-num_rows * num_queries // _SCORES_AT_ONCE)
        num_scanned = -(-num_rows // parts)
        group = min(max(num_scanned // (_GROUPS_PER_RESULT * k), 1), _GROUP_ROWS)
        groups = -(-num_scanned // group)
        lower_SQ = np.empty((group * groups, num_queries), np.float32)
        floor_Q = np.full(num_queries, np.finfo(np.float32).min)
        found = []
        for start in range(0, num_rows, num_scanned):
            stop = min(start + num_scanned, num_rows)
            self._rows.multiply(queries_QW, start, stop, lower_SQ[: stop - start])
            lower_SQ[stop - start :] = -np.inf
            if allowed_QN is not None:
                np.copyto(lower_SQ[: stop - start], -np.inf, where=~allowed_QN[:, start:stop].T)
            for query, rows in enumerate(without):
                lower_SQ[rows[(rows >= start) & (rows < stop)] - start, query] = -np.inf
            highest_MQ = lower_SQ.reshape(group, -1).max(0).reshape(groups, num_queries)
            if groups >= k:
                kth_Q = np.partition(np.ascontiguousarray(highest_MQ.T), groups - k, axis=1)[:, groups - k]
                floor_Q = np.maximum(floor_Q, kth_Q - 2 * error_Q)
            found.append(self._above(lower_SQ.reshape(group, groups, num_queries), highest_MQ, floor_Q, norm_Q, start, stop))
        query_C, row_C, upper_C = (np.concatenate(column) for column in zip(*found, strict=True))
        kept = upper_C >= floor_Q[query_C]
        return query_C[kept], row_C[kept]

    def _above(
        self, lower_GMQ: Floats, highest_MQ: Floats, floor_Q: Floats, norm_Q: Floats, start: int, stop: int
    ) -> tuple[Ints, Ints, Floats]:
        """Queries, rows and upper bounds of what reaches the floor."""
        doubt_GM = None
        if self._rows.doubt_N is not None:
            doubt_GM = np.zeros(lower_GMQ.shape[:2], np.float32)
            doubt_GM.reshape(-1)[: stop - start] = self._rows.doubt_N[start:stop]
            highest_MQ = highest_MQ + doubt_GM.max(0)[:, None] * norm_Q
        group_C, query_C = np.nonzero(highest_MQ >= floor_Q)
        upper_GC = lower_GMQ[:, group_C, query_C]
        if doubt_GM is not None:
            upper_GC = upper_GC + doubt_GM[:, group_C] * norm_Q[query_C]
        place, column = np.nonzero(upper_GC >= floor_Q[query_C])
        return query_C[column], start + place * lower_GMQ.shape[1] + group_C[column], upper_GC[place, column]
