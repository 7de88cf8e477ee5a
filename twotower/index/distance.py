"""Turns the largest inner product into the nearest neighbour: one more column makes all rows equally long (Bachrach et al. 2014).

An index that compresses or links rows by distance needs this, because with inner products its lists and links would follow the
lengths of rows. Codes are of blocks of columns, by default pairs. Popularity, each signal and the added column have a block of
their own, because their range is large.

N: items, V: vector width, D: embedding width, W: width in blocks, Q: queries
"""

from collections.abc import Iterator

import numpy as np

from twotower.data.features import Floats, Ints

_ROWS_AT_ONCE = 65_536
_PAIR = 2


def layout(num_columns: int, width: int, block: int = _PAIR) -> tuple[Ints, int]:
    """The place of each column [V] of a vector, and W. The first `width` are adjacent; W - block is the added column."""
    first = -(-width // block) * block
    tail = first + block * np.arange(num_columns - width)
    return np.concatenate([np.arange(width), tail]), first + block * (len(tail) + 1)


def lengthened_queries(queries_QV: Floats, width: int, block: int = _PAIR) -> Floats:
    """Queries [Q, W]. Their distances to lengthened rows have the order of their inner products with the vectors."""
    columns_V, total = layout(queries_QV.shape[1], width, block)
    queries_QW = np.zeros((len(queries_QV), total), np.float32)
    queries_QW[:, columns_V] = queries_QV
    return queries_QW


class Lengthened:
    """Vectors with the added column, so that all rows have one length."""

    def __init__(self, vectors_NV: Floats, width: int, block: int = _PAIR) -> None:
        self._vectors_NV, self._block = vectors_NV, block
        self._columns_V, self.width = layout(vectors_NV.shape[1], width, block)
        # Subtracting the mean from all rows keeps their order for every query, and makes them shorter.
        self._mean_V = vectors_NV.mean(0, dtype=np.float64).astype(np.float32)
        starts = range(0, len(vectors_NV), _ROWS_AT_ONCE)
        self._longest = max(squared_norms(vectors_NV[s : s + _ROWS_AT_ONCE] - self._mean_V).max() for s in starts)

    @property
    def norm(self) -> float:
        """The norm that all lengthened rows have."""
        return float(self._longest**0.5)

    def rows(self, row_C: Ints | slice) -> Floats:
        """Some of the rows, lengthened, [C, W]."""
        moved_CV = self._vectors_NV[row_C] - self._mean_V
        rows_CW = np.zeros((len(moved_CV), self.width), np.float32)
        rows_CW[:, self._columns_V] = moved_CV
        rows_CW[:, self.width - self._block] = np.sqrt(np.maximum(self._longest - squared_norms(moved_CV), 0))
        return rows_CW

    def parts(self, num_rows: int = _ROWS_AT_ONCE) -> Iterator[Floats]:
        """All rows, lengthened, in order and in parts of `num_rows`."""
        for start in range(0, len(self._vectors_NV), num_rows):
            yield self.rows(slice(start, start + num_rows))


def squared_norms(rows_NV: Floats) -> Floats:
    """Squared length of each row."""
    norms_N: Floats = np.einsum("nv,nv->n", rows_NV, rows_NV)
    return norms_N
