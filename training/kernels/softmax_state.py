"""The running state of a softmax: states over disjoint candidates merge exactly (Milakov & Gimelshein 2018).

Scores are in bits, because 2^x costs half as much as e^x.

Q: queries, V: item width
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BITS = 1 / math.log(2)  # bits per nat


@dataclass(frozen=True, slots=True)
class SoftmaxState:
    """Per query: the highest score (bits), the sum of w = 2^(score - highest), and the sum of w times the item vector."""

    highest_Q: Tensor
    total_Q: Tensor
    sum_QV: Tensor

    @property
    def log_partition_Q(self) -> Tensor:
        """log of the sum of exp(score), in nats; -inf where there is no candidate."""
        return (self.highest_Q + self.total_Q.log2()) * math.log(2)

    @property
    def mean_QV(self) -> Tensor:
        """Mean item under the softmax: the gradient of the log partition with respect to the query. NaN without candidates."""
        return self.sum_QV / self.total_Q[:, None]

    def probability(self, query_M: Tensor, score_M: Tensor) -> Tensor:
        """Softmax probability of candidates with these scores (bits), each for its own query."""
        return (score_M - self.highest_Q[query_M]).exp2() / self.total_Q[query_M]


def empty_state(query_QV: Tensor) -> SoftmaxState:
    """The state before any candidate."""
    zero_Q = query_QV.new_zeros(len(query_QV))
    return SoftmaxState(zero_Q - torch.inf, zero_Q, torch.zeros_like(query_QV))


def merge(a: SoftmaxState, b: SoftmaxState) -> SoftmaxState:
    """The state over the union of two sets of candidates, which must not overlap."""
    highest_Q = torch.maximum(a.highest_Q, b.highest_Q)
    a_Q, b_Q = ((state.highest_Q - finite(highest_Q)).exp2() for state in (a, b))
    return SoftmaxState(
        highest_Q, a.total_Q * a_Q + b.total_Q * b_Q, torch.addcmul(a.sum_QV * a_Q[:, None], b.sum_QV, b_Q[:, None])
    )


def concatenate(states: Sequence[SoftmaxState]) -> SoftmaxState:
    """The states of several groups of queries as one state."""
    return SoftmaxState(*(torch.cat([getattr(state, name) for state in states]) for name in ("highest_Q", "total_Q", "sum_QV")))


def finite(highest_Q: Tensor) -> Tensor:
    """The highest score, made finite, so that subtracting it from -inf gives -inf and not NaN."""
    return highest_Q.clamp(min=torch.finfo(highest_Q.dtype).min)
