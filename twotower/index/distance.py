"""Largest inner product as nearest neighbour: one more column makes all rows equally long (Bachrach et al. 2014).

What compresses and links rows by distance needs that: with the inner product itself, lists and links go by length. Codes are of
pairs of columns. Popularity and signals, whose range is large, and the column of the length have a pair each.

N: items, V: vector width, D: embedding width, W: width in pairs, Q: queries
"""

from collections.abc import Iterator

import numpy as np

from twotower.data.features import Floats, Ints

_ROWS_AT_ONCE = 65_536


def layout(num_columns: int, width: int) -> tuple[Ints, int]:
    """Where each column [V] of a vector stands, the first `width` close together, and W; W - 2 holds the length."""
    first = width + width % 2
    tail = first + 2 * np.arange(num_columns - width)
    return np.concatenate([np.arange(width), tail]), first + 2 * len(tail) + 2


def lengthened_queries(queries_QV: Floats, width: int) -> Floats:
    """Queries [Q, W], whose distances to lengthened rows rank as their inner products with the vectors do."""
    columns_V, paired = layout(queries_QV.shape[1], width)
    queries_QW = np.zeros((len(queries_QV), paired), np.float32)
    queries_QW[:, columns_V] = queries_QV
    return queries_QW


class Lengthened:
    """The rows of some vectors, all of one length."""

    def __init__(self, vectors_NV: Floats, width: int) -> None:
        self._vectors_NV = vectors_NV
        self._columns_V, self.width = layout(vectors_NV.shape[1], width)
        # All rows moved alike keep their order for every query, and are shorter around their mean.
        self._mean_V = vectors_NV.mean(0, dtype=np.float64).astype(np.float32)
        starts = range(0, len(vectors_NV), _ROWS_AT_ONCE)
        self._longest = max(squared_norms(vectors_NV[s : s + _ROWS_AT_ONCE] - self._mean_V).max() for s in starts)

    def rows(self, row_C: Ints | slice) -> Floats:
        """Some of them, [C, W]."""
        moved_CV = self._vectors_NV[row_C] - self._mean_V
        rows_CW = np.zeros((len(moved_CV), self.width), np.float32)
        rows_CW[:, self._columns_V] = moved_CV
        rows_CW[:, self.width - 2] = np.sqrt(np.maximum(self._longest - squared_norms(moved_CV), 0))
        return rows_CW

    def parts(self, num_rows: int = _ROWS_AT_ONCE) -> Iterator[Floats]:
        """All of them, in order."""
        for start in range(0, len(self._vectors_NV), num_rows):
            yield self.rows(slice(start, start + num_rows))


def squared_norms(rows_NV: Floats) -> Floats:
    """Squared length of each row."""
    norms_N: Floats = np.einsum("nv,nv->n", rows_NV, rows_NV)
    return norms_N
