"""The small tower: features of an item -> one vector. It never sees the user, the request or the day.

N: items, S: hash slots, F: dense features, K: hashed fields, E: table width, H: hidden width,
D: model width
"""

import math
from typing import TypeAlias

import torch
from torch import Tensor, nn

from twotower.kernels.gather_pool import gather_pool
from twotower.model.config import ModelConfig
from twotower.model.linear import linear, linear_gelu

Embedder: TypeAlias = nn.Module
"""Any module made from a ModelConfig that maps (slots_NS, weights_NS, dense_NF) to vectors [N, D], each row for itself.

`twotower.model.kinds` builds them by name; `training.recipes.embedder_check` holds a user's own to it.
"""


class MlpEmbedder(nn.Module):
    """Signed multi-hash table shared by all fields (Svenstrup et al. 2017), summed per field, then a two-layer MLP."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.slot_counts = config.item_spec.slot_counts
        self.table = nn.Parameter(torch.empty(config.table_rows, config.table_dim))
        self.hidden = nn.Linear(config.embedder_input, config.embedder_hidden)
        self.out = nn.Linear(config.embedder_hidden, config.width)
        initialise(self.table, self.hidden, self.out)

    def forward(self, slots_NS: Tensor, weights_NS: Tensor, dense_NF: Tensor) -> Tensor:
        """Item vectors [N, D]."""
        fields_NKE = gather_pool(self.table, slots_NS, weights_NS, self.slot_counts)
        hidden_NH = linear_gelu(torch.cat([fields_NKE.flatten(1), dense_NF], 1), self.hidden)
        return linear(hidden_NH, self.out)


def initialise(table_RE: Tensor, *layers: nn.Linear) -> None:
    """Truncated-normal weights (Brüel Gabrielsson 2026), at half the usual scale of a linear layer."""
    nn.init.trunc_normal_(table_RE, std=0.1)
    for layer in layers:
        nn.init.trunc_normal_(layer.weight, std=0.5 / math.sqrt(layer.in_features))
        nn.init.zeros_(layer.bias)
