"""Attention over all past items of a user, for the taste that the contextualizer's window does not reach.

Q: requests, M: past items of all requests, U: distinct ones, D: width, H: heads, E: key width of a head, X: query input width
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from twotower.data.item_statistics import NUM_PAST_FEATURES
from twotower.data.past_items import PastItems, PastVectors
from twotower.kernels.rms_norm import rms_norm
from twotower.model.config import ModelConfig


class PastAttention(nn.Module):
    """Every request attends to its past items. Their counts and ages add a bias to the attention weights.

    Requests of one user share items, so each distinct item is projected once.
    """

    def __init__(self, config: ModelConfig, query_width: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.key_width = config.past_heads, config.past_key_width
        self.norm = nn.RMSNorm(config.width)
        self.query = nn.Linear(query_width, self.num_heads * self.key_width)
        self.key = nn.Linear(config.width, self.num_heads * self.key_width, bias=False)
        self.bias = nn.Linear(NUM_PAST_FEATURES, self.num_heads)
        self.value = nn.Linear(config.width, config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)
        self.dropout = nn.Dropout(dropout)  # of whole items and of their sum; without it this part memorises users

    def forward(self, query_input_QX: Tensor, past: PastItems, vectors: PastVectors) -> Tensor:
        """Weighted mean of past items [Q, D]; zero for a request without any."""
        heads = (self.num_heads, -1)
        query_QHE = self.query(query_input_QX).unflatten(1, heads) / math.sqrt(self.key_width)
        # Vectors of items that were not in training may have any norm. Unscaled, one of them could take all the attention.
        items_UD = rms_norm(vectors.items_UD, self.norm.weight)
        key_UHE = self.key(items_UD).unflatten(1, heads)
        logit_MH = dots_of_pairs(query_QHE, key_UHE, past.request_M, vectors.item_M) + self.bias(past.features_M6)
        weight_MH = self.dropout(segment_softmax(logit_MH.float(), past.request_M, len(query_input_QX)))
        starts_Q = torch.searchsorted(past.request_M, torch.arange(len(query_input_QX), device=past.request_M.device))
        values = self.value(items_UD).float().chunk(self.num_heads, 1)
        mixed = [
            functional.embedding_bag(vectors.item_M, value_UE, starts_Q, mode="sum", per_sample_weights=weight_M)
            for value_UE, weight_M in zip(values, weight_MH.unbind(1), strict=True)
        ]
        return self.dropout(self.out(torch.cat(mixed, 1)))  # type: ignore[no-any-return]


def dots_of_pairs(query_QHE: Tensor, key_UHE: Tensor, query_M: Tensor, key_M: Tensor) -> Tensor:
    """Dot products of some pairs of a query and a key, [M, H], by one product of all with all where that is less work."""
    if len(query_QHE) * len(key_UHE) > len(query_M) * query_QHE.shape[2]:
        return (query_QHE[query_M] * key_UHE[key_M]).sum(-1)
    dots_HQU = query_QHE.transpose(0, 1) @ key_UHE.permute(1, 2, 0)
    return dots_HQU[:, query_M, key_M].T


def segment_softmax(logit_MH: Tensor, segment_M: Tensor, num_segments: int) -> Tensor:
    """Softmax over the rows of each segment, per column."""
    none_SH = logit_MH.new_full((num_segments, logit_MH.shape[1]), -torch.inf)
    index_MH = segment_M[:, None].expand_as(logit_MH)
    highest_SH = none_SH.scatter_reduce(0, index_MH, logit_MH.detach(), "amax")
    weight_MH = (logit_MH - highest_SH[segment_M]).exp()
    total_SH = logit_MH.new_zeros(none_SH.shape).index_add(0, segment_M, weight_MH)
    return weight_MH / total_SH[segment_M]
