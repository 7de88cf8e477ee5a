"""Attention over all past items of a user, for the taste that the contextualizer's window does not reach.

Q: requests, M: past items of all requests, U: distinct ones, D: width, H: heads, E: key width of a head, X: query input width,
S: requests of a block, K: distinct past items of a block, J: those of all blocks
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from twotower.data.item_statistics import NUM_PAST_FEATURES
from twotower.data.past_items import PastItems, PastVectors
from twotower.kernels.rms_norm import rms_norm
from twotower.model.config import ModelConfig

BLOCK_PAIRS = 2**17  # pairs of a request and an item that a block multiplies at most, if all its requests had different items


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
        # Vectors of items that were not in training may have any norm. Unscaled, one of them could take all the attention.
        items_UD = rms_norm(vectors.items_UD, self.norm.weight)
        attend = self._attend_pairs if items_UD.is_cuda else self._attend_blocks
        taste_QD = attend(self.query(query_input_QX) / math.sqrt(self.key_width), items_UD, past, vectors.item_M)
        return self.dropout(self.out(taste_QD))  # type: ignore[no-any-return]

    def _attend_pairs(self, query_QX: Tensor, items_UD: Tensor, past: PastItems, item_M: Tensor) -> Tensor:
        """Pair by pair of a request and an item: for a GPU, which has the bandwidth."""
        query_QHE, key_UHE = (x.unflatten(1, (self.num_heads, -1)) for x in (query_QX, self.key(items_UD)))
        logit_MH = dots_of_pairs(query_QHE, key_UHE, past.request_M, item_M) + self.bias(past.features_M6)
        weight_MH = self.dropout(segment_softmax(logit_MH.float(), past.request_M, len(query_QX)))
        starts_Q = torch.searchsorted(past.request_M, torch.arange(len(query_QX), device=past.request_M.device))
        values = self.value(items_UD).float().chunk(self.num_heads, 1)
        mixed = [
            functional.embedding_bag(item_M, value_UE, starts_Q, mode="sum", per_sample_weights=weight_M)
            for value_UE, weight_M in zip(values, weight_MH.unbind(1), strict=True)
        ]
        return torch.cat(mixed, 1)

    def _attend_blocks(self, query_QX: Tensor, items_UD: Tensor, past: PastItems, item_M: Tensor) -> Tensor:
        """Block by block of requests, each with all items of its block: for a CPU, whose cache holds a block."""
        blocks = Blocks.of(past.request_M, item_M, len(query_QX), len(items_UD))
        key_JX, value_JD = (rows_UX.index_select(0, blocks.item_J) for rows_UX in (self.key(items_UD), self.value(items_UD)))
        heads = (x.unflatten(1, (self.num_heads, -1)).transpose(0, 1) for x in (query_QX, key_JX, value_JD))
        query_HQE, key_HJE, value_HJE = heads
        parts = zip(
            torch.split(query_HQE, blocks.num_requests, 1),
            torch.split(key_HJE, blocks.num_items, 1),
            torch.split(value_HJE, blocks.num_items, 1),
            torch.split(self.bias(past.features_M6).T, blocks.num_pairs, 1),
            torch.split(blocks.place_M, blocks.num_pairs),
            strict=True,
        )
        mixed = []
        for query_HSE, key_HKE, value_HKE, bias_HM, place_M in parts:
            num_requests, num_items = query_HSE.shape[1], key_HKE.shape[1]
            beside_HSK = bias_HM.new_full((self.num_heads, num_requests * num_items), torch.finfo(bias_HM.dtype).min)
            beside_HSK = beside_HSK.index_copy(1, place_M, bias_HM).view(self.num_heads, num_requests, num_items)
            weight_HSK = torch.baddbmm(beside_HSK, query_HSE, key_HKE.transpose(1, 2)).softmax(2)
            mixed.append(self.dropout(weight_HSK) @ value_HKE)
        taste_QD = torch.cat(mixed, 1).transpose(0, 1).flatten(1)
        return taste_QD * (torch.bincount(past.request_M, minlength=len(taste_QD)) > 0)[:, None]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Requests in blocks of neighbours, which share many items, because they are often of one user."""

    num_requests: list[int]
    num_items: list[int]
    num_pairs: list[int]
    item_J: Tensor  # row of each item in the distinct ones, block by block
    place_M: Tensor  # where each pair stands in the matrix [S, K] of its block

    @staticmethod
    def of(request_M: Tensor, item_M: Tensor, num_requests: int, num_items: int) -> "Blocks":
        """Blocks for pairs that are sorted by request. The fewer items the requests have, the more of them make a block."""
        size = max(1, math.isqrt(BLOCK_PAIRS * num_requests // max(len(request_M), 1)))
        starts = range(0, max(num_requests, 1), size)  # without requests, one empty block
        block_M = request_M // size
        key_M = block_M * num_items + item_M
        present = torch.zeros(len(starts) * num_items, dtype=torch.bool)
        present[key_M] = True
        items_of_block = present.view(len(starts), num_items).sum(1)
        column_M = (present.cumsum(0) - 1)[key_M] - (items_of_block.cumsum(0) - items_of_block)[block_M]
        return Blocks(
            [min(size, num_requests - start) for start in starts],
            items_of_block.tolist(),
            torch.bincount(block_M, minlength=len(starts)).tolist(),
            present.nonzero()[:, 0] % num_items,
            (request_M % size) * items_of_block[block_M] + column_M,
        )


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
