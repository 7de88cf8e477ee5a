"""The frozen softmax as a differentiable function of the queries.

Q: queries, V: item width with popularity, M: certain pairs of a query and an item
"""

from typing import Any

import torch
from torch import Tensor

from training.kernels.candidates import CandidateSet, Certain, ItemVectors
from training.kernels.frozen_softmax import frozen_softmax


def frozen_log_partition(
    query_QV: Tensor, extra_M: Tensor, certain: Certain, day_Q: Tensor, catalogue: ItemVectors, candidates: CandidateSet
) -> Tensor:
    """log of the sum of exp(score) for every query, [Q], over the candidates and the query's certain items.

    score = <query, [item vector, popularity on the query's day]> + (the candidate's log weight, or `extra_M` if certain).
    Gradients flow to `query_QV` and `extra_M`. Memory is O(Q V + M) and a few tiles, whatever the number of candidates.
    """
    with torch.autocast(query_QV.device.type, enabled=False):
        return FrozenLogPartition.apply(query_QV, extra_M, certain, day_Q, catalogue, candidates)  # type: ignore[no-any-return, no-untyped-call]


class FrozenLogPartition(torch.autograd.Function):
    """The forward pass computes both gradients as well, because it has the scores."""

    @staticmethod
    def forward(
        ctx: Any,
        query_QV: Tensor,
        extra_M: Tensor,
        certain: Certain,
        day_Q: Tensor,
        catalogue: ItemVectors,
        candidates: CandidateSet,
    ) -> Tensor:
        """Log partitions [Q]."""
        state, score_M = frozen_softmax(query_QV, extra_M, certain, day_Q, catalogue, candidates)
        probability_M = state.probability(certain.query_M, score_M)
        ctx.save_for_backward(state.mean_QV, probability_M, certain.query_M)
        return state.log_partition_Q

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of a query is its mean item; that of an extra is its item's probability."""
        mean_QV, probability_M, query_M = ctx.saved_tensors
        return grad[0][:, None] * mean_QV, grad[0][query_M] * probability_M, None, None, None, None
