"""The embedder `bag`: an item is the sum of its tokens. For catalogues with few features, where the id carries almost everything.

N: items, S: hash slots, F: dense features, D: model width
"""

import torch
from torch import Tensor, nn

from twotower.kernels.gather_pool import gather_pool
from twotower.model.config import ModelConfig


class BagEmbedder(nn.Module):
    """Signed hash rows as wide as the vector, summed over all fields (as in factorization machines); dense features are
    projected and added.

    With several rows per item this is a compressed id table: it spends its whole budget on rows, none on layers.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(config.table_rows, config.width))
        self.dense = nn.Linear(config.item_spec.dense_width, config.width) if config.item_spec.dense_width else None
        self.bias = nn.Parameter(torch.zeros(config.width))
        nn.init.trunc_normal_(self.table, std=0.05)

    def forward(self, slots_NS: Tensor, weights_NS: Tensor, dense_NF: Tensor) -> Tensor:
        """Item vectors [N, D]."""
        summed_ND = gather_pool(self.table, slots_NS, weights_NS, [slots_NS.shape[1]])[:, 0]
        return summed_ND + (self.bias if self.dense is None else self.dense(dense_NF) + self.bias)
