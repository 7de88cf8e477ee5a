"""Rows as float16 or int8 codes, each with a bound on its error, so that a scan of the codes still finds the exact best rows.

An embedding is scale * code + residual. By the inequality of Cauchy and Schwarz the residual changes a score by at most its
norm times the query's norm. Popularity and signals stay float32, because their range is large and their number small.

N: items, V: vector width, D: embedding width, T: V - D, W: V + 1, B: rows of a block, Q: queries
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from twotower.data.features import Floats
from twotower.errors import ReleaseMismatch
from twotower.index.scan import max_norm

Code = Literal["float16", "int8"]
Codes = tuple[npt.NDArray[Any], Floats, npt.NDArray[np.float16]]
"""Codes [N, D], their scales [N], and norms [N] of what they leave, rounded up."""
_LEVELS: dict[Code, int] = {"float16": 1, "int8": 127}  # the largest code
_BLOCK_ROWS = 8192  # few enough to stay in the cache between decoding and multiplying


class CodedRows:
    """Codes, scales and residual norms; a block is decoded just before it is multiplied."""

    def __init__(
        self, vectors_NV: Floats, codes_ND: npt.NDArray[np.generic], scale_N: Floats, residual_N: npt.NDArray[np.float16]
    ) -> None:
        self.vectors_NV = np.asarray(vectors_NV)  # indexing a memory map is slow
        self._codes_ND, self._scale_N = torch.from_numpy(codes_ND), torch.from_numpy(scale_N)
        self._tail_NT = torch.from_numpy(np.ascontiguousarray(vectors_NV[:, codes_ND.shape[1] :]))
        self._residual_N = torch.from_numpy(residual_N)
        self._block_BD = torch.empty(min(_BLOCK_ROWS, len(codes_ND)), codes_ND.shape[1])
        self.max_norm = max((self._max_norm(start, stop) for start, stop in _blocks(0, len(codes_ND))), default=0.0)

    @property
    def num_bytes(self) -> int:
        """Bytes of codes, scales, residual norms, popularity and signals."""
        return self._codes_ND.nbytes + self._scale_N.nbytes + self._residual_N.nbytes + self._tail_NT.nbytes

    def extend(self, queries_QV: Floats) -> Floats:
        """Queries whose products are upper bounds: the residual adds at most its norm times the query's."""
        norm_Q = np.linalg.norm(queries_QV[:, : self._codes_ND.shape[1]], axis=1)
        return np.concatenate([queries_QV, norm_Q[:, None]], 1)

    def multiply(self, queries_QW: Floats, start: int, stop: int, out_QS: Floats) -> None:
        """Write the products of some rows, decoded block by block. Products are scaled rather than rows, which is less work."""
        queries, out, width = torch.from_numpy(queries_QW), torch.from_numpy(out_QS), self._codes_ND.shape[1]
        for first, last in _blocks(start, stop):
            products_QB = torch.mm(queries[:, :width], self._decoded(first, last).T)
            products_QB.mul_(self._scale_N[first:last])
            products_QB.addmm_(queries[:, width:-1], self._tail_NT[first:last].T)
            products_QB.addmm_(queries[:, -1:], self._residual_N[None, first:last].float())
            out[:, first - start : last - start] = products_QB

    def _decoded(self, start: int, stop: int) -> Tensor:
        """Codes as numbers, unscaled; valid until the next call."""
        return self._block_BD[: stop - start].copy_(self._codes_ND[start:stop])

    def _max_norm(self, start: int, stop: int) -> float:
        """The norm of the longest row, the residual norm included."""
        decoded_BD = self._decoded(start, stop) * self._scale_N[start:stop, None]
        parts = (decoded_BD, self._tail_NT[start:stop], self._residual_N[start:stop, None].float())
        return max_norm(torch.cat(parts, 1).numpy())


def write_codes(file: Path, vectors_NV: Floats, width: int, code: Code) -> None:
    """Write codes of the first `width` columns. The other columns are read from the vectors themselves."""
    codes_ND, scale_N, residual_N = encoded(vectors_NV, width, code)
    try:
        save_file({"codes": codes_ND, "scale": scale_N, "residual": residual_N}, file)
    except SafetensorError as error:  # its only kind of error: the disk is full, or cannot be written
        raise OSError(f"cannot write {file}: {error}") from error


def encoded(vectors_NV: Floats, width: int, code: Code) -> Codes:
    """Codes of the first `width` columns."""
    codes_ND = np.empty((len(vectors_NV), width), code)
    scale_N, residual_N = np.empty(len(vectors_NV), np.float32), np.empty(len(vectors_NV), np.float16)
    for start, stop in _blocks(0, len(vectors_NV)):
        embedding_BD = vectors_NV[start:stop, :width]
        largest_B = np.abs(embedding_BD).max(1, initial=0)
        scale_N[start:stop] = np.where(largest_B > 0, largest_B, 1) / np.float32(_LEVELS[code])
        scaled_BD = embedding_BD / scale_N[start:stop, None]
        codes_ND[start:stop] = np.rint(scaled_BD) if code == "int8" else scaled_BD
        residual_B = _residual(embedding_BD, codes_ND[start:stop], scale_N[start:stop])
        residual_N[start:stop] = np.nextafter(residual_B.astype(np.float16), np.float16(np.inf))  # rounded up: still a bound
    assert np.isfinite(residual_N).all(), "an embedding is too large for the norm of its residual"
    return codes_ND, scale_N, residual_N


def read_codes(file: Path, vectors_NV: Floats, width: int, code: Code) -> Codes:
    """What `encoded` made of these vectors; ReleaseMismatch when a row's bound shows that they were made from other vectors."""
    try:
        parts = load_file(file)
    except (OSError, SafetensorError) as error:
        raise _mismatch(file, str(error)) from error
    num_items = len(vectors_NV)
    expected = {"codes": ((num_items, width), code), "scale": ((num_items,), "float32"), "residual": ((num_items,), "float16")}
    if {name: (part.shape, part.dtype.name) for name, part in parts.items()} != expected:
        raise _mismatch(file, f"it does not hold the {code} codes of {num_items} embeddings of width {width}")
    codes_ND, scale_N, residual_N = parts["codes"], parts["scale"], parts["residual"]
    for start, stop in _blocks(0, num_items):
        residual_B = _residual(vectors_NV[start:stop, :width], codes_ND[start:stop], scale_N[start:stop])
        if not (residual_B <= residual_N[start:stop]).all():
            raise _mismatch(file, "it was built over other vectors")
    return codes_ND, scale_N, residual_N


def _residual(embedding_BD: Floats, codes_BD: npt.NDArray[np.generic], scale_B: Floats) -> npt.NDArray[np.float64]:
    """Distance of each embedding to its code, which is decoded in float32 as in a search."""
    decoded_BD = codes_BD.astype(np.float32) * scale_B[:, None]
    residual_B: npt.NDArray[np.float64] = np.linalg.norm(embedding_BD.astype(np.float64) - decoded_BD, axis=1)
    return residual_B


def _blocks(start: int, stop: int) -> Iterator[tuple[int, int]]:
    for first in range(start, stop, _BLOCK_ROWS):
        yield first, min(first + _BLOCK_ROWS, stop)


def _mismatch(file: Path, what: str) -> ReleaseMismatch:
    return ReleaseMismatch(f"{file}: {what}. Publish it again with `twotower embed`.")
