"""Rows as int8 codes that are multiplied as integers: several times less to read than float32, and exact sums.

A query becomes two int8 vectors, the second for what the first leaves of it. So a score is scale * (the sum of two integer
products) + residual of the row + residual of the query. Cauchy and Schwarz bound both residuals.

N: items, V: vector width, D: embedding width, T: V - D, E: T + 2, W: V + 1, Q: queries, S: rows scanned at once
"""

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twotower.data.features import Floats
from twotower.index.coded import CodedRows, encoded
from twotower.index.principal import PrincipalRows, principal_axes, transposed
from twotower.index.scan import Rows

_LEVELS = 127  # the largest code
_MOST_WIDTH = 1024  # a sum of as many products of codes is exact in float32
_TIMED_ROWS, _ROUNDS = 65_536, 5


class _Level(NamedTuple):
    """Queries as int8 codes and their scales."""

    codes_QD: Tensor
    scale_Q1: Tensor


class IntegerRows(CodedRows):
    """int8 codes, multiplied without decoding them."""

    def __init__(
        self, vectors_NV: Floats, codes_ND: npt.NDArray[np.int8], scale_N: Floats, residual_N: npt.NDArray[np.float16]
    ) -> None:
        super().__init__(vectors_NV, codes_ND, scale_N, residual_N)
        ones_N = np.ones(len(vectors_NV), np.float32)
        exact = [*np.asarray(vectors_NV).T[codes_ND.shape[1] :], residual_N.astype(np.float32), ones_N]
        self._exact_EN = torch.from_numpy(np.stack(exact))

    @property
    def num_bytes(self) -> int:
        """Bytes of codes, scales, popularity, signals and residual norms."""
        return self._codes_ND.nbytes + self._scale_N.nbytes + self._exact_EN.nbytes

    def multiply(self, queries_QW: Floats, start: int, stop: int, out_QS: Floats) -> None:
        """Write the products of the queries with rows [start, stop), which bound the scores from above."""
        width, out = self._codes_ND.shape[1], torch.from_numpy(out_QS)
        codes_DS, left_QD = self._codes_ND[start:stop].T, queries_QW[:, :width].astype(np.float64)
        first, left_QD = _level(left_QD)
        second, left_QD = _level(left_QD)
        slack_Q = (np.linalg.norm(left_QD, axis=1) * self.max_norm).astype(np.float32)
        torch.mul(_product(first, codes_DS), first.scale_Q1, out=out)
        out.add_(_product(second, codes_DS) * second.scale_Q1)
        out.mul_(self._scale_N[start:stop])
        exact_QE = np.concatenate([queries_QW[:, width:], slack_Q[:, None]], 1)
        out.addmm_(torch.from_numpy(exact_QE), self._exact_EN[:, start:stop])


def _level(left_QD: npt.NDArray[np.float64]) -> tuple[_Level, npt.NDArray[np.float64]]:
    """Codes of the queries, and what they leave of them."""
    largest_Q1 = np.abs(left_QD).max(1, keepdims=True, initial=0)
    scale_Q1 = (np.where(largest_Q1 > 0, largest_Q1, 1) / _LEVELS).astype(np.float32)
    codes_QD = np.rint(left_QD / scale_Q1).clip(-_LEVELS, _LEVELS)
    level = _Level(torch.from_numpy(codes_QD.astype(np.int8)), torch.from_numpy(scale_Q1))
    return level, left_QD - codes_QD * scale_Q1.astype(np.float64)


def _product(level: _Level, codes_DS: Tensor) -> Tensor:
    """Integer products [Q, S]."""
    return torch._int_mm(level.codes_QD, codes_DS)  # torch's name for it; the only integer product that it has


def exact_rows(vectors_NV: Floats, width: int) -> Rows:
    """Rows in the form that this machine scans fastest: along few axes, or as integers."""
    choices: list[Callable[[Floats], Rows]] = [transposed]
    if can_be_integers(width):
        choices.append(lambda rows_NV: IntegerRows(rows_NV, *encoded(rows_NV, width, "int8")))
    return fastest(choices, vectors_NV)


def coded_rows(vectors_NV: Floats, codes_ND: npt.NDArray[np.int8], scale_N: Floats, residual_N: npt.NDArray[np.float16]) -> Rows:
    """int8 codes in the form that this machine scans fastest: as integers, or decoded block by block.

    Rows that vary along so few axes that their parts along these take less memory than the codes are scanned along them instead.
    """
    axes_VA = principal_axes(vectors_NV)
    if axes_VA is not None and 4 * (axes_VA.shape[1] + 1) <= codes_ND.shape[1]:
        return PrincipalRows(vectors_NV, axes_VA)

    def of(kind: type[CodedRows]) -> Callable[[Floats], Rows]:
        return lambda rows_NV: kind(rows_NV, codes_ND[: len(rows_NV)], scale_N[: len(rows_NV)], residual_N[: len(rows_NV)])

    kinds = [CodedRows, IntegerRows] if can_be_integers(codes_ND.shape[1]) else [CodedRows]
    return fastest([of(kind) for kind in kinds], vectors_NV)


@lru_cache
def can_be_integers(width: int) -> bool:
    """Whether embeddings of this width can be multiplied as integers, and torch's product of a sample is right.

    torch 2.13 gives a wrong product of codes of width 1 (findings/torch-int-mm-is-wrong-for-one-column.sh). Another processor may
    have another fault of this kind.
    """
    if not 0 < width <= _MOST_WIDTH:
        return False
    rng = np.random.default_rng(0)
    codes_QD, codes_SD = (rng.integers(-_LEVELS, _LEVELS + 1, (num, width), np.int8) for num in (3, 100))
    product_QS = _product(_Level(torch.from_numpy(codes_QD), torch.ones(3, 1)), torch.from_numpy(codes_SD).T).numpy()
    return np.array_equal(product_QS, codes_QD.astype(np.int32) @ codes_SD.T.astype(np.int32))


def fastest(choices: Sequence[Callable[[Floats], Rows]], vectors_NV: Floats) -> Rows:
    """The rows of the choice whose product with one query takes least time on this machine, measured on some of the rows."""
    if len(choices) == 1 or not len(vectors_NV):
        return choices[0](vectors_NV)
    some_SV = np.asarray(vectors_NV[:_TIMED_ROWS])
    seconds = [_seconds(choice(some_SV), some_SV) for choice in choices]
    return choices[int(np.argmin(seconds))](vectors_NV)


def _seconds(rows: Rows, some_SV: Floats) -> float:
    """Least time of several products with one query."""
    query_1W, out_1S = rows.extend(some_SV[:1]), np.empty((1, len(some_SV)), np.float32)
    taken = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        rows.multiply(query_1W, 0, len(some_SV), out_1S)
        taken.append(time.perf_counter() - started)
    return min(taken)
