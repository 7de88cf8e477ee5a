"""What a softmax over a part of the candidates comes to, such that parts add up exactly (Milakov & Gimelshein 2018).

Scores are in bits: 2^x costs half of e^x.

Q: queries, V: item width
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BITS = 1 / math.log(2)  # in a nat


@dataclass(frozen=True, slots=True)
class SoftmaxState:
    """A softmax over the candidates seen so far: highest score (bits), the sum of 2^(score - highest), of that times item."""

    highest_Q: Tensor
    total_Q: Tensor
    sum_QV: Tensor

    @property
    def log_partition_Q(self) -> Tensor:
        """log of the sum of exp(score), in nats; -inf where no candidate counts."""
        return (self.highest_Q + self.total_Q.log2()) * math.log(2)

    @property
    def mean_QV(self) -> Tensor:
        """The items' mean under the softmax, the gradient of the log partition with respect to the query; NaN without any."""
        return self.sum_QV / self.total_Q[:, None]

    def probability(self, query_M: Tensor, score_M: Tensor) -> Tensor:
        """Of candidates with these scores (bits), each as its query sees it."""
        return (score_M - self.highest_Q[query_M]).exp2() / self.total_Q[query_M]


def empty_state(query_QV: Tensor) -> SoftmaxState:
    """No candidate seen."""
    zero_Q = query_QV.new_zeros(len(query_QV))
    return SoftmaxState(zero_Q - torch.inf, zero_Q, torch.zeros_like(query_QV))


def merge(a: SoftmaxState, b: SoftmaxState) -> SoftmaxState:
    """The state over both sets of candidates, which must not overlap."""
    highest_Q = torch.maximum(a.highest_Q, b.highest_Q)
    a_Q, b_Q = ((state.highest_Q - finite(highest_Q)).exp2() for state in (a, b))
    return SoftmaxState(
        highest_Q, a.total_Q * a_Q + b.total_Q * b_Q, torch.addcmul(a.sum_QV * a_Q[:, None], b.sum_QV, b_Q[:, None])
    )


def concatenate(states: Sequence[SoftmaxState]) -> SoftmaxState:
    """States of different queries, one after the other."""
    return SoftmaxState(*(torch.cat([getattr(state, name) for state in states]) for name in ("highest_Q", "total_Q", "sum_QV")))


def finite(highest_Q: Tensor) -> Tensor:
    """What may be subtracted from scores, also where every one of them is -inf."""
    return highest_Q.clamp(min=torch.finfo(highest_Q.dtype).min)
