"""Vectors of items on a device: those of a release, and those of items that were added since it was built.

N: items of the release, A: added items, V: vector width, M: rows that are wanted, D: columns that are wanted
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from twotower.kernels.dispatch import jit, tl


@dataclass(frozen=True, slots=True)
class ItemRows:
    """Two tables of vectors, of which rows of the second follow those of the first."""

    built_NV: Tensor
    added_AV: Tensor | None

    @property
    def pointers(self) -> tuple[Tensor, Tensor | None, int, int, int]:
        """The first arguments of `load_vectors`. Rows may be parts of wider ones."""
        for table in (self.built_NV, self.added_AV):
            assert table is None or table.stride(1) == 1
        added_stride = 0 if self.added_AV is None else self.added_AV.stride(0)
        return self.built_NV, self.added_AV, len(self.built_NV), self.built_NV.stride(0), added_stride

    def take(self, rows_M: Tensor) -> Tensor:
        """The vectors [M, V] of some rows. What `load_vectors` does in a kernel."""
        if self.added_AV is None:
            return self.built_NV.index_select(0, rows_M)
        num_built = len(self.built_NV)
        built_MV = self.built_NV.index_select(0, rows_M.clamp(max=num_built - 1))
        added_MV = self.added_AV.index_select(0, (rows_M - num_built).clamp(min=0))
        return torch.where((rows_M >= num_built)[:, None], added_MV, built_MV)


@jit
def load_vectors(built_ptr, added_ptr, num_built, built_stride, added_stride, row, column, mask):  # type: ignore[no-untyped-def]
    """Some columns [1, D] of the vectors of some rows [M]."""
    here = row.to(tl.int64)[:, None]
    numbers = tl.load(built_ptr + here * built_stride + column, mask=mask & (here < num_built), other=0.0)
    if added_ptr is not None:
        added = (here - num_built) * added_stride + column
        numbers += tl.load(added_ptr + added, mask=mask & (here >= num_built), other=0.0)
    return numbers
