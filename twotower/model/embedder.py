"""The small tower: features of an item -> one vector. It never sees the user, the request or the day.

N: items, S: hash slots, F: dense features, K: hashed fields, E: table width, D: model width
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from twotower.model.config import ModelConfig

Embedder: TypeAlias = nn.Module
"""Any module made from a ModelConfig that maps (slots_NS, weights_NS, dense_NF) to vectors [N, D], each row for itself.

`twotower.model.kinds` builds them by name; `training.embedder_check` holds a user's own to it.
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
        fields_NKE = pool_fields(self.table, slots_NS, weights_NS, self.slot_counts)
        return self.out(functional.gelu(self.hidden(torch.cat([fields_NKE.flatten(1), dense_NF], 1))))  # type: ignore[no-any-return]


def pool_fields(table_RE: Tensor, slots_NS: Tensor, weights_NS: Tensor, slot_counts: Sequence[int]) -> Tensor:
    """Signed sum of each hashed field's table rows, [N, K, E]: every field of every row is one bag of slots."""
    num_rows, num_slots = slots_NS.shape
    firsts_K = torch.tensor([0, *accumulate(slot_counts)][:-1], dtype=slots_NS.dtype, device=slots_NS.device)
    rows_N = torch.arange(num_rows, dtype=slots_NS.dtype, device=slots_NS.device)
    starts = (rows_N[:, None] * num_slots + firsts_K).flatten()
    pooled = functional.embedding_bag(slots_NS.flatten(), table_RE, starts, mode="sum", per_sample_weights=weights_NS.flatten())
    return pooled.view(num_rows, len(slot_counts), table_RE.shape[1])


def initialise(table_RE: Tensor, *layers: nn.Linear) -> None:
    """Plain truncated-normal (SCIENCE), at half the usual scale of a linear layer."""
    nn.init.trunc_normal_(table_RE, std=0.1)
    for layer in layers:
        nn.init.trunc_normal_(layer.weight, std=0.5 / math.sqrt(layer.in_features))
        nn.init.zeros_(layer.bias)
