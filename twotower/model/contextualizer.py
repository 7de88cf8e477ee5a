"""The large tower: a pre-norm decoder-only transformer reads item vectors and event context and produces a query.

B: histories, L: events, D: width, H: heads, G: key/value heads, E: head width, Q: queries, M: own items of all queries,
P: popularity dimensions, R: rank of the repeat interaction, S: hash slots, F: dense features
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from twotower.model.config import ModelConfig
from twotower.model.own_attention import OwnAttention
from twotower.own import OwnItems, OwnVectors
from twotower.repeat import NUM_ACTIVITY_FEATURES, NUM_REPEAT_FEATURES
from twotower.window import HistoryBatch

ROPE_BASE = 10_000.0
MIN_GROUPED = 16  # histories; fewer are not worth a second pass


class Block(nn.Module):
    """Grouped-query attention with rotary positions (Su et al. 2021), then SwiGLU (Shazeer 2020), both pre-norm."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.head_width = config.width // config.num_heads
        self.attention_norm = nn.RMSNorm(config.width)
        self.qkv = nn.Linear(config.width, (config.num_heads + 2 * config.num_kv_heads) * self.head_width, bias=False)
        self.attention_out = nn.Linear(config.width, config.width, bias=False)
        self.ffn_norm = nn.RMSNorm(config.width)
        self.gate_up = nn.Linear(config.width, 2 * config.ffn_width, bias=False)
        self.down = nn.Linear(config.ffn_width, config.width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, cos_LE: Tensor, sin_LE: Tensor) -> Tensor:
        """The residual stream after one block."""
        x_BLD = x_BLD + self.dropout(self.attention(self.attention_norm(x_BLD), cos_LE, sin_LE))
        gate, up = self.gate_up(self.ffn_norm(x_BLD)).chunk(2, -1)
        return x_BLD + self.dropout(self.down(functional.silu(gate) * up))  # type: ignore[no-any-return]

    def attention(self, x_BLD: Tensor, cos_LE: Tensor, sin_LE: Tensor) -> Tensor:
        """Causal self-attention."""
        batch, length, width = x_BLD.shape
        sizes = [self.num_heads, self.num_kv_heads, self.num_kv_heads]
        heads = self.qkv(x_BLD).view(batch, length, sum(sizes), self.head_width).transpose(1, 2)
        q_BHLE, k_BGLE, v_BGLE = heads.split(sizes, 1)
        mixed = functional.scaled_dot_product_attention(
            rotate(q_BHLE, cos_LE, sin_LE), rotate(k_BGLE, cos_LE, sin_LE), v_BGLE, is_causal=True, enable_gqa=True
        )
        return self.attention_out(mixed.transpose(1, 2).reshape(batch, length, width))  # type: ignore[no-any-return]


def rotate(x: Tensor, cos_LE: Tensor, sin_LE: Tensor) -> Tensor:
    """Rotary position embedding over the last axis, its halves paired; positions count from the window's anchor."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos_LE - second * sin_LE, first * sin_LE + second * cos_LE], -1)


class Contextualizer(nn.Module):
    """History -> query vectors; own items -> repeat scores. score = <query, item vector> + repeat."""

    cos_LE: Tensor
    sin_LE: Tensor

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        width, query_input = config.width, config.width + config.request_time_width + NUM_ACTIVITY_FEATURES
        self.context_table = nn.Parameter(torch.empty(config.context_table_rows, width))
        self.context_in = nn.Linear(config.context_input, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(config, dropout) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(width)
        self.empty_history = nn.Parameter(torch.zeros(width))
        self.own_attention = OwnAttention(config, query_input, dropout)
        self.query_hidden = nn.Linear(query_input, 2 * width)
        self.query_out = nn.Linear(2 * width, width + config.num_popularity)
        self.repeat_item = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, config.repeat_item_width))
        self.repeat_mlp = nn.Sequential(
            nn.Linear(
                NUM_REPEAT_FEATURES + NUM_ACTIVITY_FEATURES + config.num_popularity + config.repeat_item_width,
                config.repeat_hidden,
            ),
            nn.ReLU(),
            nn.Linear(config.repeat_hidden, config.repeat_hidden),
            nn.ReLU(),
            nn.Linear(config.repeat_hidden, 1),
        )
        self.repeat_query = nn.Linear(query_input, config.repeat_rank)
        self.repeat_key = nn.Linear(NUM_REPEAT_FEATURES, config.repeat_rank)
        self.width = width
        self.event_time_width, self.request_time_width = config.event_time_width, config.request_time_width
        self._initialise(config)
        half = config.width // config.num_heads // 2
        angles = torch.outer(torch.arange(config.window), ROPE_BASE ** (-torch.arange(half) / half))
        self.register_buffer("cos_LE", angles.cos(), persistent=False)
        self.register_buffer("sin_LE", angles.sin(), persistent=False)

    def _initialise(self, config: ModelConfig) -> None:
        """Plain truncated-normal: it beat muP at every scale tried (SCIENCE). Residual outputs start small."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=1 / math.sqrt(module.in_features))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            for block in self.blocks:
                assert isinstance(block, Block)
                for layer in (block.attention_out, block.down):
                    layer.weight.mul_((2 * config.num_layers) ** -0.5)
            self.own_attention.out.weight.mul_(0.2)
            # A new model ranks by popularity of the first half-life alone: the prior it then learns to bend.
            self.query_out.weight.mul_(0.1)
            self.query_out.bias[self.width : self.width + 1] = 1.0
        nn.init.trunc_normal_(self.context_table, std=0.02)

    def forward(self, item_vectors_BLD: Tensor, batch: HistoryBatch) -> Tensor:
        """Hidden states [B, L, D]; the one at position l has seen events 0..l. Those behind a history's end mean nothing."""
        longest = item_vectors_BLD.shape[1]
        groups = length_groups(batch.lengths_B, longest)
        if len(groups) == 1:
            return self._hidden(item_vectors_BLD, batch)
        hidden_BLD = torch.zeros_like(item_vectors_BLD)
        for members, length in groups:
            part = self._hidden(item_vectors_BLD[members, :length], batch.take(members, length))
            hidden_BLD = hidden_BLD.index_put((members[:, None], torch.arange(length, device=members.device)), part)
        return hidden_BLD

    def _hidden(self, item_vectors_BLD: Tensor, batch: HistoryBatch) -> Tensor:
        length = item_vectors_BLD.shape[1]
        dense_BLF = torch.cat([batch.time_BL6[..., : self.event_time_width], batch.dense_BLF], -1)
        x_BLD = item_vectors_BLD + self.context_in(dense_BLF) + self.pool_slots(batch.slots_BLS, batch.weights_BLS)
        x_BLD = self.dropout(x_BLD)
        for block in self.blocks:
            x_BLD = block(x_BLD, self.cos_LE[:length], self.sin_LE[:length])
        return self.norm(x_BLD)  # type: ignore[no-any-return]

    def pool_slots(self, slots: Tensor, weights: Tensor) -> Tensor:
        """Sum of signed context rows over the last axis, which becomes D."""
        bags, bag_weights = slots.flatten(0, -2), weights.flatten(0, -2)
        pooled = functional.embedding_bag(bags, self.context_table, mode="sum", per_sample_weights=bag_weights)
        return pooled.view(*slots.shape[:-1], pooled.shape[-1])

    def query_input(
        self,
        hidden_QD: Tensor,
        empty_Q: Tensor,
        request_Q7: Tensor,
        wanted_QS: Tensor,
        wanted_weights_QS: Tensor,
        own: OwnItems,
        vectors: OwnVectors,
    ) -> Tensor:
        """Hidden state (or the learned empty history), the event type wanted and own items, beside time and activity."""
        hidden_QD = torch.where(empty_Q[:, None], self.empty_history, hidden_QD) + self.pool_slots(wanted_QS, wanted_weights_QS)
        beside = [request_Q7[:, : self.request_time_width], own.activity_Q6]
        taste_QD = self.own_attention(torch.cat([hidden_QD, *beside], -1), own, vectors)
        return torch.cat([hidden_QD + taste_QD, *beside], -1)

    def queries(self, query_input: Tensor) -> Tensor:
        """Query vectors [Q, D + P], to be multiplied with [item vector, log popularity]."""
        return self.query_out(self.dropout(functional.silu(self.query_hidden(query_input))))  # type: ignore[no-any-return]

    def repeat_scores(self, query_input: Tensor, own: OwnItems, vectors: OwnVectors) -> Tensor:
        """What is added to the score of each own item, [M].

        It reads the item's vector too: milk is bought again within days, and a broom is not.
        """
        item_M16 = self.repeat_item(vectors.items_UD)[vectors.item_M]
        seen = torch.cat([own.features_M6, own.activity_Q6[own.request_M], 1.5 + vectors.popularity_MP / 5, item_M16], -1)
        interaction = self.repeat_query(query_input)[own.request_M] * self.repeat_key(own.features_M6)
        return self.repeat_mlp(seen)[:, 0] + interaction.sum(-1)  # type: ignore[no-any-return]


def length_groups(lengths_B: Tensor, longest: int) -> list[tuple[Tensor, int]]:
    """Histories of similar length: whose they are, and how many events are computed of each; one group when padding is small."""
    padded = lengths_B.clamp(min=1)
    if len(padded) < MIN_GROUPED or 2 * int(padded.sum()) > padded.numel() * longest:
        return [(torch.arange(len(padded), device=padded.device), longest)]
    power_B = torch.log2(padded.float()).ceil().int()
    powers = torch.unique(power_B).tolist()
    return [(torch.nonzero(power_B == power)[:, 0], min(2**power, longest)) for power in powers]
