"""The set loss of stage 1, with gradients to queries, candidates and repeat scores.

Q: queries, C: candidates, V: width of scored vectors (item and popularity), M: past items of all queries, A: answers
"""

from typing import NamedTuple

import torch
from torch import Tensor

from training.kernels.trained_softmax import PastPairs, TrainedCandidates, trained_log_partition


class NextItems(NamedTuple):
    """The items of the next baskets; weights sum to 1."""

    query_A: Tensor
    column_A: Tensor
    weight_A: Tensor


def trained_set_loss(query_QV: Tensor, candidates: TrainedCandidates, past: PastPairs, answers: NextItems) -> Tensor:
    """Weighted mean over answers of -log softmax(score)[answer], in nats; answers are certain candidates, so have no bias."""
    weight_Q = query_QV.new_zeros(len(query_QV)).index_add(0, answers.query_A, answers.weight_A)
    partition = trained_log_partition(query_QV, candidates, past, weight_Q)
    score_A = (query_QV[answers.query_A] * candidates.of(answers.query_A, answers.column_A)).sum(1)
    if len(past.query_M):
        num_candidates = len(candidates.vectors_CD)
        past_key = past.query_M * num_candidates + past.column_M
        answer_key = answers.query_A * num_candidates + answers.column_A
        place = torch.searchsorted(past_key, answer_key).clamp(max=len(past_key) - 1)
        score_A = score_A + torch.where(past_key[place] == answer_key, past.repeat_M[place], 0.0)
    return partition - (score_A * answers.weight_A).sum()
