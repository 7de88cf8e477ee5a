"""The set loss of stage 1 in one pass, with gradients to queries, candidates and repeat scores.

A block of queries is scored against all candidates, turned into probabilities and multiplied back into gradients while it
is in the processor's cache; no [Q, C] matrix is ever made. That needs no second pass because the weight of each query's
log partition in the loss, the sum of its answers' weights, is known before.

Q: queries, C: candidates, V: width of scored vectors (D + P), D: item vector width, P: popularity dimensions,
T: distinct days, B: windows, M: own items of all queries, A: answers, S: queries of a block
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

BLOCK_SCORES = 400_000  # of a block of queries: 1.6 MB stay in the processor's cache


class Scored(NamedTuple):
    """Candidates as queries meet them. Score = <query, [vector, popularity of its day]> + bias of its window + repeat."""

    vectors_CD: Tensor
    popularity_TCP: Tensor  # log popularity on the distinct days of the queries
    day_Q: Tensor  # which of them is the query's
    bias_BC: Tensor  # correction for sampling: log of one over the probability to be among the candidates
    window_Q: Tensor

    def of(self, query_A: Tensor, column_A: Tensor) -> Tensor:
        """Candidates as certain queries meet them, [A, V]."""
        return torch.cat([self.vectors_CD[column_A], self.popularity_TCP[self.day_Q[query_A], column_A]], 1)


class Own(NamedTuple):
    """Repeat scores, by query and then by column."""

    query_M: Tensor
    column_M: Tensor
    repeat_M: Tensor


class Answers(NamedTuple):
    """The items of the next baskets; weights sum to 1."""

    query_A: Tensor
    column_A: Tensor
    weight_A: Tensor


def joint_set_loss(query_QV: Tensor, scored: Scored, own: Own, answers: Answers) -> Tensor:
    """Weighted mean over answers of -log softmax(score)[answer], in nats; answers count as certain candidates (no bias)."""
    weight_Q = query_QV.new_zeros(len(query_QV)).index_add(0, answers.query_A, answers.weight_A)
    with torch.autocast(query_QV.device.type, enabled=False):
        partition = _WeightedLogPartition.apply(query_QV, scored.vectors_CD, own.repeat_M, own, weight_Q, scored)  # type: ignore[no-untyped-call]
    score_A = (query_QV[answers.query_A] * scored.of(answers.query_A, answers.column_A)).sum(1)
    if len(own.query_M):
        num_candidates = len(scored.vectors_CD)
        own_key = own.query_M * num_candidates + own.column_M
        answer_key = answers.query_A * num_candidates + answers.column_A
        place = torch.searchsorted(own_key, answer_key).clamp(max=len(own_key) - 1)
        score_A = score_A + torch.where(own_key[place] == answer_key, own.repeat_M[place], 0.0)
    return partition - (score_A * answers.weight_A).sum()  # type: ignore[no-any-return]


class _WeightedLogPartition(torch.autograd.Function):
    """sum_q weight_q log sum_c exp(score_qc). Differentiable in queries, vectors and repeat scores."""

    @staticmethod
    def forward(
        ctx: Any, query_QV: Tensor, vectors_CD: Tensor, repeat_M: Tensor, own: Own, weight_Q: Tensor, scored: Scored
    ) -> Tensor:
        """Returns a scalar; the gradients are made on the way."""
        num_queries, width = len(query_QV), vectors_CD.shape[1]
        block = max(8, BLOCK_SCORES // len(vectors_CD))
        starts = torch.arange(0, num_queries + block, block, device=own.query_M.device)
        bounds = torch.searchsorted(own.query_M, starts).tolist()
        grad_query_QV, grad_vectors_CD = torch.empty_like(query_QV), torch.zeros_like(vectors_CD)
        grad_repeat_M, total = torch.empty_like(repeat_M), query_QV.new_zeros((), dtype=torch.float64)
        for number, start in enumerate(range(0, num_queries, block)):
            rows, mine = slice(start, start + block), slice(bounds[number], bounds[number + 1])
            query_SV, weight_S1 = query_QV[rows], weight_Q[rows, None]
            popularity_PSC = scored.popularity_TCP[scored.day_Q[rows]].movedim(2, 0)
            scores_SC = query_SV[:, :width] @ vectors_CD.T
            for p, popularity_SC in enumerate(popularity_PSC):
                scores_SC.addcmul_(query_SV[:, width + p, None], popularity_SC)
            scores_SC += scored.bias_BC[scored.window_Q[rows]]
            own_places = own.query_M[mine] - start, own.column_M[mine]
            scores_SC.index_put_(own_places, repeat_M[mine], accumulate=True)
            highest_S1 = scores_SC.amax(1, keepdim=True)
            weights_SC = scores_SC.sub_(highest_S1).exp_()
            sum_S1 = weights_SC.sum(1, keepdim=True)
            total += (weight_S1 * (sum_S1.log() + highest_S1)).sum()
            weights_SC *= weight_S1 / sum_S1  # d loss / d score
            grad_repeat_M[mine] = weights_SC[own_places]
            torch.mm(weights_SC, vectors_CD, out=grad_query_QV[rows, :width])
            for p, popularity_SC in enumerate(popularity_PSC):
                grad_query_QV[rows, width + p] = torch.linalg.vecdot(weights_SC, popularity_SC)
            grad_vectors_CD.addmm_(weights_SC.T, query_SV[:, :width])
        ctx.save_for_backward(grad_query_QV, grad_vectors_CD, grad_repeat_M)
        return total.to(query_QV.dtype)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, ...]:
        """Scales what forward made."""
        query_QV, vectors_CD, repeat_M = ctx.saved_tensors
        return query_QV * grad[0], vectors_CD * grad[0], repeat_M * grad[0], None, None, None
