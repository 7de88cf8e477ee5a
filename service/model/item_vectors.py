"""The item vectors of a release that readers look up by row.

N: items that the release was built with, A: items added since, M: some rows, V: vector width
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from twotower.data.features import Ints


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
