"""The item vectors of a release that readers look up by row.

N: items that the release was built with, A: items added since, M: some rows, V: vector width, D: item vector width
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twotower.data.features import Floats, Ints

_MIXERS = np.random.default_rng(0).integers(0, 2**64, 4096, np.uint64) | np.uint64(1)  # one for each value of a vector


@dataclass(frozen=True, slots=True)
class ItemVectors:
    """Vectors of the items of a release; rows of added items follow those that it was built with."""

    built_NV: Tensor
    added_AV: Tensor | None = None

    def take(self, rows: Ints) -> Tensor:
        """Vectors [M, V] of some rows."""
        if self.added_AV is None:
            return torch.from_numpy(self.built_NV.numpy().take(rows, 0))  # for few rows much faster than torch
        num_built = len(self.built_NV)
        vectors_MV = self.built_NV[torch.from_numpy(np.minimum(rows, num_built - 1))]
        late = rows >= num_built
        vectors_MV[torch.from_numpy(late)] = self.added_AV[torch.from_numpy(rows[late] - num_built)]
        return vectors_MV


def fingerprints(vectors_MD: Floats) -> npt.NDArray[np.uint64]:
    """A 64-bit number [M] for each vector: equal for equal bits, and different for different bits, but for a chance of 2^-32.

    Multilinear hashing (Carter & Wegman 1979) of the values' bits, which is a product and a sum.
    """
    words_MD = np.ascontiguousarray(vectors_MD).view(np.uint32).astype(np.uint64)
    prints_M: npt.NDArray[np.uint64] = words_MD @ _MIXERS[: words_MD.shape[1]]
    return prints_M
