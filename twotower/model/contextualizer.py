"""The large tower: a pre-norm decoder-only transformer that reads item vectors and event contexts and produces a query.

B: histories, L: events, T: events of all histories, D: width, H: heads, G: key/value heads, E: head width, Q: queries,
M: past items of all queries, P: popularity dimensions, or half of a head, R: rank of the repeat interaction, S: hash slots,
F: dense features
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from twotower.data.item_statistics import NUM_ACTIVITY_FEATURES, NUM_PAST_FEATURES
from twotower.data.past_items import PastItems, PastVectors
from twotower.data.window import HistoryBatch
from twotower.kernels.gather_pool import gather_pool
from twotower.kernels.packed_attention import Packing, packed_attention
from twotower.kernels.rms_norm import add_rms_norm, rms_norm
from twotower.kernels.rotary import rotate
from twotower.kernels.swiglu import swiglu
from twotower.model.config import ModelConfig
from twotower.model.past_attention import PastAttention

ROPE_BASE = 10_000.0
MIN_GROUPED = 16  # histories; with fewer, a second pass costs more than padding


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

    def forward(
        self, x_TD: Tensor, normed_TD: Tensor, next_weight_D: Tensor, cos_LP: Tensor, sin_LP: Tensor, packing: Packing
    ) -> tuple[Tensor, Tensor]:
        """The residual stream after this block, and its norm for the next block, from the stream and its norm for this one."""
        attended_TD = self.dropout(self.attention(normed_TD, cos_LP, sin_LP, packing))
        x_TD, normed_TD = add_rms_norm(x_TD, attended_TD, self.ffn_norm.weight)
        return add_rms_norm(x_TD, self.dropout(self.down(swiglu(self.gate_up(normed_TD)))), next_weight_D)

    def attention(self, x_TD: Tensor, cos_LP: Tensor, sin_LP: Tensor, packing: Packing) -> Tensor:
        """Causal self-attention over the packed histories."""
        heads = self.qkv(x_TD).unflatten(1, (-1, self.head_width))
        q_THE, k_TGE, v_TGE = heads.split([self.num_heads, self.num_kv_heads, self.num_kv_heads], 1)
        k_TGE = rotate(k_TGE, cos_LP, sin_LP, packing.positions_T)
        mixed_THE = packed_attention(q_THE, k_TGE, v_TGE, cos_LP, sin_LP, packing)
        return self.attention_out(mixed_THE.flatten(1))  # type: ignore[no-any-return]


class Contextualizer(nn.Module):
    """History -> query vectors; past items -> repeat scores. score = <query, item vector> + repeat."""

    cos_LE: Tensor
    sin_LE: Tensor

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        width, query_input = config.width, config.width + config.request_time_width + NUM_ACTIVITY_FEATURES
        self.context_table = nn.Parameter(torch.empty(config.context_table_rows, width))
        self.context_in = nn.Linear(config.context_input, width)
        self.query_table = nn.Parameter(torch.empty(config.query_table_rows, width)) if config.query_field else None
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(config, dropout) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(width)
        self.empty_history = nn.Parameter(torch.zeros(width))
        self.past_attention = PastAttention(config, query_input, dropout) if config.past_heads else None
        self.query_scale = nn.Parameter(torch.ones(width))
        self.search_scale = nn.Parameter(torch.ones(width)) if config.query_field else None
        self.query_request = nn.Linear(query_input - width, width, bias=False) if config.clock else None
        self.popularity_hidden = nn.Linear(query_input, config.popularity_hidden)
        self.popularity_out = nn.Linear(config.popularity_hidden, config.num_popularity)
        self.repeat_item = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, config.repeat_item_width))
        self.repeat_mlp = nn.Sequential(
            nn.Linear(
                NUM_PAST_FEATURES + NUM_ACTIVITY_FEATURES + config.num_popularity + config.repeat_item_width,
                config.repeat_hidden,
            ),
            nn.ReLU(),
            nn.Linear(config.repeat_hidden, config.repeat_hidden),
            nn.ReLU(),
            nn.Linear(config.repeat_hidden, 1),
        )
        self.repeat_query = nn.Linear(query_input, config.repeat_rank)
        self.repeat_key = nn.Linear(NUM_PAST_FEATURES, config.repeat_rank)
        self.width = width
        self.event_time_width, self.request_time_width = config.event_time_width, config.request_time_width
        self._initialise(config)
        half = config.width // config.num_heads // 2
        angles = torch.outer(torch.arange(config.window), ROPE_BASE ** (-torch.arange(half) / half))
        self.register_buffer("cos_LE", angles.cos(), persistent=False)
        self.register_buffer("sin_LE", angles.sin(), persistent=False)

    def _initialise(self, config: ModelConfig) -> None:
        """Truncated-normal weights: they beat muP at every scale (Brüel Gabrielsson 2026). Residual outputs start small."""
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
            if self.past_attention is not None:
                self.past_attention.out.weight.mul_(0.2)
            if self.query_request is not None:
                self.query_request.weight.mul_(0.1)
            # A new model weighs the popularity of the first half-life by about one, and training starts from there.
            self.popularity_out.weight.mul_(0.1)
            self.popularity_out.bias[:1] = 1.0
        nn.init.trunc_normal_(self.context_table, std=0.02)
        if self.query_table is not None:
            nn.init.trunc_normal_(self.query_table, std=0.02)

    def forward(self, item_vectors_BLD: Tensor, batch: HistoryBatch) -> Tensor:
        """Hidden states [B, L, D]. The one at position l depends on events 0..l; those after a history's end mean nothing."""
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
        dense_BLF = torch.cat([batch.time_BL6[..., : self.event_time_width], batch.dense_BLF], -1)
        x_BLD = item_vectors_BLD + self.context_in(dense_BLF) + self.pool_slots(batch.slots_BLS, batch.weights_BLS)
        return self.stream(self.dropout(x_BLD))[1]

    def stream(self, x_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """The residual stream after the last block, and the hidden states, which are the stream's norm."""
        packing = Packing.whole([x_BLD.shape[1]] * len(x_BLD), x_BLD.device)
        blocks = [block for block in self.blocks if isinstance(block, Block)]
        weights = [*(block.attention_norm.weight for block in blocks), self.norm.weight]
        x_TD = x_BLD.flatten(0, 1)
        normed_TD = rms_norm(x_TD, weights[0])
        for block, next_weight_D in zip(blocks, weights[1:], strict=True):
            x_TD, normed_TD = block(x_TD, normed_TD, next_weight_D, self.cos_LE, self.sin_LE, packing)
        return x_TD.view_as(x_BLD), normed_TD.view_as(x_BLD)

    def pool_slots(self, slots: Tensor, weights: Tensor) -> Tensor:
        """Sum of signed context rows over the last axis, which D replaces."""
        pooled = gather_pool(self.context_table, slots.flatten(0, -2), weights.flatten(0, -2), [slots.shape[-1]])
        return pooled.view(*slots.shape[:-1], self.width)

    def pool_words(self, slots_SW: Tensor, weights_SW: Tensor) -> Tensor:
        """Sum [S, D] of the signed rows of the words of queries."""
        assert self.query_table is not None, "the model reads searches"
        return gather_pool(self.query_table, slots_SW, weights_SW, [slots_SW.shape[1]])[:, 0]

    def query_input(
        self,
        hidden_QD: Tensor,
        empty_Q: Tensor,
        request_Q7: Tensor,
        wanted_QS: Tensor,
        wanted_weights_QS: Tensor,
        past: PastItems,
        vectors: PastVectors,
    ) -> Tensor:
        """The input of the query head: hidden state (that of an empty history if need be), event type, taste, time, activity."""
        hidden_QD = torch.where(empty_Q[:, None], self.empty_history, hidden_QD) + self.pool_slots(wanted_QS, wanted_weights_QS)
        beside = [request_Q7[:, : self.request_time_width], past.activity_Q6]
        if self.past_attention is not None:
            hidden_QD = hidden_QD + self.past_attention(torch.cat([hidden_QD, *beside], -1), past, vectors)
        return torch.cat([hidden_QD, *beside], -1)

    def queries(self, query_input: Tensor, searched_QD: Tensor | None = None) -> Tensor:
        """Query vectors [Q, D + P], whose product with [item vector, log popularity] is a score.

        The hidden state itself meets the item vectors, so that what is learned of an item as history counts for it as an answer.
        An MLP between the two loses the items with few events (docs/quality.md). What the request says of its time and of the
        user's activity is added; a small MLP weighs the popularity. `searched_QD` has the query of a search that has just been
        made, zero where there is none: it meets the item vectors itself too.
        """
        item_QD = query_input[:, : self.width]
        if self.query_request is not None:
            item_QD = item_QD + self.query_request(query_input[:, self.width :])
        weights_QP = self.popularity_out(self.dropout(functional.silu(self.popularity_hidden(query_input))))
        item_QD = item_QD * self.query_scale
        if searched_QD is not None and self.search_scale is not None:
            item_QD = item_QD + searched_QD * self.search_scale
        return torch.cat([item_QD, weights_QP], -1)

    def repeat_scores(self, query_input: Tensor, past: PastItems, vectors: PastVectors) -> Tensor:
        """The repeat score of each past item, [M], which is added to its dot product.

        It reads the item's vector too, because milk is bought again within days and a broom is not.
        """
        norm, linear = self.repeat_item
        assert isinstance(norm, nn.RMSNorm)
        item_M16 = linear(rms_norm(vectors.items_UD, norm.weight))[vectors.item_M]
        read = torch.cat([past.features_M6, past.activity_Q6[past.request_M], 1.5 + vectors.popularity_MP / 5, item_M16], -1)
        interaction = self.repeat_query(query_input)[past.request_M] * self.repeat_key(past.features_M6)
        return self.repeat_mlp(read)[:, 0] + interaction.sum(-1)  # type: ignore[no-any-return]


def length_groups(lengths_B: Tensor, longest: int) -> list[tuple[Tensor, int]]:
    """Groups of histories of similar length: their indices, and the length to compute. One group when there is little padding."""
    padded = lengths_B.clamp(min=1)
    if len(padded) < MIN_GROUPED or 2 * int(padded.sum()) > padded.numel() * longest:
        return [(torch.arange(len(padded), device=padded.device), longest)]
    power_B = torch.log2(padded.float()).ceil().int()
    powers = torch.unique(power_B).tolist()
    return [(torch.nonzero(power_B == power)[:, 0], min(2**power, longest)) for power in powers]
