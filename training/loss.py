"""The set loss: every item of the next basket is a right answer, scored against the catalogue or a weighted sample of it.

Q: queries, C: candidates, N: items, D: vector width, P: popularity dimensions, M: own items of all queries, A: answers
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.snapshots import PopularitySnapshots
from twotower.features import Ints

CHUNK_ITEMS = 4096  # scores of one chunk and its exponentials stay in the processor's cache


def set_loss(scores_QC: Tensor, answer_query_A: Tensor, answer_column_A: Tensor, answer_weights_A: Tensor) -> Tensor:
    """Weighted mean over answers of -log softmax(score)[answer]; weights sum to 1. In nats.

    With a sample of the catalogue, `scores_QC` must come from `correct_for_sampling`.
    """
    log_partition_Q = torch.logsumexp(scores_QC, 1)
    nll_A = log_partition_Q[answer_query_A] - scores_QC[answer_query_A, answer_column_A]
    return (nll_A * answer_weights_A).sum()


def correct_for_sampling(scores_QC: Tensor, log_weight_C: Tensor, certain_QC: Tensor) -> Tensor:
    """Add log(1/pi) to every score but those of items that are candidates of that query for certain.

    Then sum_C exp(score) is an unbiased estimate of the sum over the catalogue.
    """
    return scores_QC + torch.where(certain_QC, 0.0, log_weight_C)


@dataclass(frozen=True, slots=True)
class FrozenCatalogue:
    """Item vectors that no longer change, and the popularity of every day."""

    vectors_ND: Tensor
    snapshots: PopularitySnapshots


def frozen_set_loss(
    query_QV: Tensor,
    repeat_M: Tensor,
    own_query_M: Tensor,
    own_rows_M: Tensor,
    now_ms_Q: Ints,
    answer_query_A: Tensor,
    answer_rows_A: Tensor,
    answer_weights_A: Tensor,
    catalogue: FrozenCatalogue,
) -> Tensor:
    """The exact set loss over all N items. Memory is Q x 4,096 scores, not Q x N.

    Own items must be sorted by query, then row.
    """
    vectors_ND, snapshots = catalogue.vectors_ND, catalogue.snapshots
    width, num_items = vectors_ND.shape[1], len(vectors_ND)
    log_partition_Q = _LogPartition.apply(query_QV, repeat_M, own_query_M, own_rows_M, now_ms_Q, catalogue)  # type: ignore[no-untyped-call]
    popularity_AP = torch.from_numpy(snapshots.of_items(now_ms_Q[answer_query_A.numpy()], answer_rows_A.numpy()))
    item_AV = torch.cat([vectors_ND[answer_rows_A], popularity_AP], 1)
    assert item_AV.shape[1] == query_QV.shape[1] > width
    own_key, answer_key = own_query_M * num_items + own_rows_M, answer_query_A * num_items + answer_rows_A
    place = torch.searchsorted(own_key, answer_key).clamp(max=max(len(own_key) - 1, 0))
    score_A = (query_QV[answer_query_A] * item_AV).sum(1)
    if len(own_key):
        score_A = score_A + torch.where(own_key[place] == answer_key, repeat_M[place], 0.0)
    return ((log_partition_Q[answer_query_A] - score_A) * answer_weights_A).sum()  # type: ignore[no-any-return]


class _LogPartition(torch.autograd.Function):
    """log sum_j exp(score_qj) over the catalogue in one pass of online softmax (Milakov & Gimelshein 2018).

    The candidates are frozen, so the same pass yields the gradient: d/dq is the softmax-weighted mean item, which is
    attention with keys equal to values, and d/drepeat is the own item's probability.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_QV: Tensor,
        repeat_M: Tensor,
        own_query_M: Tensor,
        own_rows_M: Tensor,
        now_ms_Q: Ints,
        catalogue: FrozenCatalogue,
    ) -> Tensor:
        """Returns [Q]."""
        vectors_ND = catalogue.vectors_ND
        num_items, width = vectors_ND.shape
        by_row = torch.argsort(own_rows_M, stable=True)
        bounds = np.searchsorted(own_rows_M[by_row].numpy(), np.arange(0, num_items + CHUNK_ITEMS, CHUNK_ITEMS))
        snapshot_Q = catalogue.snapshots.index(now_ms_Q)
        highest_Q1 = torch.full((len(query_QV), 1), -torch.inf)
        total_Q1 = torch.zeros(len(query_QV), 1)
        mean_QV = torch.zeros_like(query_QV)
        own_score_M = torch.empty_like(repeat_M)
        for chunk, start in enumerate(range(0, num_items, CHUNK_ITEMS)):
            items_CD = vectors_ND[start : start + CHUNK_ITEMS]
            popularity_QCP = torch.from_numpy(catalogue.snapshots.table_TNP[snapshot_Q, start : start + CHUNK_ITEMS])
            scores_QC = query_QV[:, :width] @ items_CD.T
            for p in range(popularity_QCP.shape[2]):
                scores_QC.addcmul_(query_QV[:, width + p, None], popularity_QCP[..., p])
            own = by_row[bounds[chunk] : bounds[chunk + 1]]
            at = own_query_M[own], own_rows_M[own] - start
            scores_QC.index_put_(at, repeat_M[own], accumulate=True)
            own_score_M[own] = scores_QC[at]
            new_highest_Q1 = torch.maximum(highest_Q1, scores_QC.amax(1, keepdim=True))
            weights_QC = scores_QC.sub_(new_highest_Q1).exp_()
            shrink_Q1 = (highest_Q1 - new_highest_Q1).exp_()
            highest_Q1 = new_highest_Q1
            total_Q1.mul_(shrink_Q1).add_(weights_QC.sum(1, keepdim=True))
            mean_QV.mul_(shrink_Q1)
            mean_QV[:, :width].addmm_(weights_QC, items_CD)
            for p in range(popularity_QCP.shape[2]):
                mean_QV[:, width + p] += torch.linalg.vecdot(weights_QC, popularity_QCP[..., p])
        log_partition_Q = (highest_Q1 + total_Q1.log())[:, 0]
        ctx.save_for_backward(mean_QV / total_Q1, (own_score_M - log_partition_Q[own_query_M]).exp(), own_query_M)
        return log_partition_Q

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, ...]:
        """Both gradients were made on the way."""
        mean_QV, probability_M, own_query_M = ctx.saved_tensors
        return grad[0][:, None] * mean_QV, grad[0][own_query_M] * probability_M, None, None, None, None
