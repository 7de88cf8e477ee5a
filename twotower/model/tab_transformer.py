"""The embedder `tab_transformer` (TabTransformer, Huang et al. 2020): the fields of an item attend to each other.

N: items, S: hash slots, F: dense features, K: hashed fields, E: table width, H: heads, D: model width
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from twotower.kernels.gather_pool import gather_pool
from twotower.model.config import ModelConfig
from twotower.model.embedder import initialise

NUM_LAYERS = 2  # the paper has six of width 32; two narrow ones leave most of a budget of 2 % to the table
NUM_HEADS = 2


class TabTransformer(nn.Module):
    """One token per hashed field with a column embedding, self-attention over the tokens, then an MLP with the dense features.

    Numbers, times and vectors join the contextual tokens in the MLP, as in the paper. All tokens come from one signed hash
    table, so new values work at once.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.slot_counts = config.item_spec.slot_counts
        self.table = nn.Parameter(torch.empty(config.table_rows, config.table_dim))
        self.columns = nn.Parameter(torch.empty(len(self.slot_counts), config.table_dim))
        self.blocks = nn.ModuleList(FieldBlock(config.table_dim) for _ in range(NUM_LAYERS))
        self.hidden = nn.Linear(config.embedder_input, config.embedder_hidden)
        self.out = nn.Linear(config.embedder_hidden, config.width)
        initialise(self.table, self.hidden, self.out)
        nn.init.trunc_normal_(self.columns, std=0.1)

    def forward(self, slots_NS: Tensor, weights_NS: Tensor, dense_NF: Tensor) -> Tensor:
        """Item vectors [N, D]."""
        x_NKE = gather_pool(self.table, slots_NS, weights_NS, self.slot_counts) + self.columns
        for block in self.blocks:
            x_NKE = block(x_NKE)
        return self.out(functional.gelu(self.hidden(torch.cat([x_NKE.flatten(1), dense_NF], 1))))  # type: ignore[no-any-return]


class FieldBlock(nn.Module):
    """Attention over the fields of one item, then a feed-forward of four widths; both pre-norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        for layer in (self.qkv, self.attention_out, self.up, self.down):
            nn.init.trunc_normal_(layer.weight, std=1 / math.sqrt(layer.in_features))
        with torch.no_grad():  # at the scale of the table, which starts at .1
            self.attention_out.weight.mul_(0.1)
            self.down.weight.mul_(0.1)

    def forward(self, x_NKE: Tensor) -> Tensor:
        """The fields after one block."""
        heads = self.qkv(self.attention_norm(x_NKE)).unflatten(-1, (3 * NUM_HEADS, -1)).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(*heads.chunk(3, 1))
        x_NKE = x_NKE + self.attention_out(mixed.transpose(1, 2).flatten(2))
        return x_NKE + self.down(functional.gelu(self.up(self.ffn_norm(x_NKE))))  # type: ignore[no-any-return]
