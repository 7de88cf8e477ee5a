"""The small tower: features of an item -> one vector. It never sees the user, the request or the day.

N: items, S: hash slots, F: dense features, K: pooled fields, E: table width, D: model width
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from twotower.model.config import ModelConfig


class Embedder(nn.Module):
    """Signed multi-hash table shared by all fields (Svenstrup et al. 2017), summed per field, then a two-layer MLP."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.slot_counts = list(config.item_spec.slot_counts)
        self.table_dim = config.table_dim
        self.table = nn.Parameter(torch.empty(config.table_rows, config.table_dim))
        self.hidden = nn.Linear(config.embedder_input, config.embedder_hidden)
        self.out = nn.Linear(config.embedder_hidden, config.width)
        nn.init.trunc_normal_(self.table, std=0.1)
        for layer in (self.hidden, self.out):
            nn.init.trunc_normal_(layer.weight, std=0.5 / math.sqrt(layer.in_features))
            nn.init.zeros_(layer.bias)

    def forward(self, slots_NS: Tensor, weights_NS: Tensor, dense_NF: Tensor) -> Tensor:
        """Item vectors [N, D]."""
        slots_NSE = functional.embedding(slots_NS, self.table) * weights_NS[..., None]
        pooled = [part.sum(1) for part in torch.split(slots_NSE, self.slot_counts, 1)]
        return self.out(functional.gelu(self.hidden(torch.cat([*pooled, dense_NF], 1))))  # type: ignore[no-any-return]
