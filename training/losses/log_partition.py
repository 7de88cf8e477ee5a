"""log of the sum of exp(score) over frozen candidates, differentiable.

Q: queries, V: item width with popularity, M: certain pairs of a query and an item
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from training.kernels.candidates import Certain, FrozenCatalogue, Part
from training.kernels.frozen_softmax import sampled_softmax


def log_partition(
    query_QV: Tensor, extra_M: Tensor, certain: Certain, day_Q: Tensor, catalogue: FrozenCatalogue, parts: Sequence[Part]
) -> Tensor:
    """log of the sum of exp(score) for every query, [Q], over the union of the disjoint `parts` and its certain items.

    score = <query, [item vector, popularity on the query's day]> + (the candidate's log weight, or `extra_M` if certain).
    Gradients flow to `query_QV` and `extra_M`. Memory is O(Q V + M) and some tiles, whatever the number of candidates.
    """
    with torch.autocast(query_QV.device.type, enabled=False):
        return _LogPartition.apply(query_QV, extra_M, certain, day_Q, catalogue, parts)  # type: ignore[no-any-return, no-untyped-call]


class _LogPartition(torch.autograd.Function):
    """The forward pass makes both gradients on its way."""

    @staticmethod
    def forward(
        ctx: Any,
        query_QV: Tensor,
        extra_M: Tensor,
        certain: Certain,
        day_Q: Tensor,
        catalogue: FrozenCatalogue,
        parts: Sequence[Part],
    ) -> Tensor:
        """Returns [Q]."""
        state, score_M = sampled_softmax(query_QV, extra_M, certain, day_Q, catalogue, parts)
        probability_M = state.probability(certain.query_M, score_M)
        ctx.save_for_backward(state.mean_QV, probability_M, certain.query_M)
        return state.log_partition_Q

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, ...]:
        """d/dquery is the mean item, d/dextra the item's probability."""
        mean_QV, probability_M, query_M = ctx.saved_tensors
        return grad[0][:, None] * mean_QV, grad[0][query_M] * probability_M, None, None, None, None
