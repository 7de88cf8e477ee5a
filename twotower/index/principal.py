"""Rows along their principal axes: a scan multiplies only the first axes, and bounds what the others could add.

Trained item vectors vary along few directions. From a row's part along these and the norm of the rest, the inequality of Cauchy
and Schwarz gives a bound on every score by a much narrower product. Few rows are left to score.

N: items, V: vector width, A: axes, W: A + 1, B: rows of a block, Q: queries
"""

import numpy as np
import numpy.typing as npt

from twotower.data.features import Floats
from twotower.index.scan import Float32Rows

_LEFT = 0.02  # share of the variance that may be left to the other axes
_STEP = 8  # W is a multiple of it, to fill vector registers
_SAMPLED_ROWS, _BLOCK_ROWS = 16_384, 8192


class TransposedRows(Float32Rows):
    """Rows stored transposed, which is several times faster to read."""

    def __init__(self, vectors_NV: Floats) -> None:
        super().__init__(vectors_NV)
        self._rows_WN = self._transposed()

    def _transposed(self) -> Floats:
        return np.ascontiguousarray(self.vectors_NV.T)

    @property
    def num_bytes(self) -> int:
        """Bytes of the transposed rows. Few rows of the vectors themselves are read."""
        return self._rows_WN.nbytes

    def multiply(self, queries_QW: Floats, start: int, stop: int, out_QS: Floats) -> None:
        """Write the products of some rows."""
        np.matmul(queries_QW, self._rows_WN[:, start:stop], out=out_QS)


class PrincipalRows(TransposedRows):
    """The part of each row along the axes, and the norm of the rest."""

    def __init__(self, vectors_NV: Floats, axes_VA: npt.NDArray[np.float64]) -> None:
        self._axes_VA = axes_VA
        super().__init__(vectors_NV)

    def _transposed(self) -> Floats:
        vectors_NV, axes_VA = self.vectors_NV, self._axes_VA
        rows_WN = np.empty((axes_VA.shape[1] + 1, len(vectors_NV)), np.float32)
        for start in range(0, len(vectors_NV), _BLOCK_ROWS):
            rows_BV = self.vectors_NV[start : start + _BLOCK_ROWS].astype(np.float64)
            along_BA = (rows_BV @ axes_VA).astype(np.float32)
            rest_B = np.linalg.norm(rows_BV - along_BA.astype(np.float64) @ axes_VA.T, axis=1)
            rows_WN[:-1, start : start + _BLOCK_ROWS] = along_BA.T
            rows_WN[-1, start : start + _BLOCK_ROWS] = np.nextafter(rest_B.astype(np.float32), np.float32(np.inf))
        return rows_WN

    def extend(self, queries_QV: Floats) -> Floats:
        """The queries' parts along the axes, and the norms of their rests."""
        along_QA = queries_QV @ self._axes_VA
        rest_Q = np.linalg.norm(queries_QV - along_QA @ self._axes_VA.T, axis=1)
        return np.concatenate([along_QA, rest_Q[:, None]], 1).astype(np.float32)


def transposed(vectors_NV: Floats) -> TransposedRows:
    """Rows in the form that is scanned fastest: along few axes, or whole when they vary along most axes."""
    axes_VA = principal_axes(vectors_NV)
    return TransposedRows(vectors_NV) if axes_VA is None else PrincipalRows(vectors_NV, axes_VA)


def principal_axes(vectors_NV: Floats) -> npt.NDArray[np.float64] | None:
    """Orthonormal axes [V, A] along which rows vary; None when they vary along most."""
    num_rows, width = vectors_NV.shape
    sample_BV = np.asarray(vectors_NV)[:: -(-num_rows // _SAMPLED_ROWS)].astype(np.float64)
    mean_V = sample_BV.mean(0)
    centred_BV = sample_BV - mean_V
    variance_V, axes_VV = np.linalg.eigh(centred_BV.T @ centred_BV)
    left_V = np.cumsum(variance_V)[::-1]  # variance of each axis and all smaller ones, the largest first
    num_axes = int(np.count_nonzero(left_V > _LEFT * left_V[0]))
    num_axes += -(num_axes + 2) % _STEP  # two more columns: the axis of the mean, and the norm of the rest
    if 2 * (num_axes + 2) > width:
        return None
    axes_VA, _ = np.linalg.qr(np.column_stack([mean_V, axes_VV[:, ::-1][:, :num_axes]]))
    return axes_VA
