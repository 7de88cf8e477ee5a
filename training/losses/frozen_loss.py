"""The set loss of stage 2: every item of the next basket is a right answer, scored against frozen item vectors.

Q: queries, V: width of scored vectors (D + P), M: past items of all queries, A: answers
"""

import torch
from torch import Tensor

from training.kernels.candidates import CandidateSet, Certain, ItemVectors
from training.kernels.trained_softmax import PastPairs
from training.losses.frozen_log_partition import frozen_log_partition
from training.losses.trained_loss import NextItems


def frozen_set_loss(
    query_QV: Tensor, past: PastPairs, answers: NextItems, day_Q: Tensor, catalogue: ItemVectors, candidates: CandidateSet
) -> Tensor:
    """Weighted mean over answers of -log softmax(score)[answer], in nats; columns are catalogue rows.

    A query's past items and its answers count exactly once and with weight 1, whether they were drawn or not. A pool in which
    each item weighs one over its probability to be drawn therefore gives an unbiased estimate of the sum over the catalogue.
    """
    dtype, num_items = catalogue.vectors_ND.dtype, len(catalogue.vectors_ND)
    query_QV = query_QV.to(dtype)
    keys = torch.cat([past.query_M * num_items + past.column_M, answers.query_A * num_items + answers.column_A])
    certain, place = torch.unique(keys, return_inverse=True)
    place_M, place_A = place[: len(past.query_M)], place[len(past.query_M) :]
    extra = query_QV.new_zeros(len(certain)).index_add(0, place_M, past.repeat_M.to(dtype))
    pairs = Certain(certain // num_items, certain % num_items)
    log_partition_Q = frozen_log_partition(query_QV, extra, pairs, day_Q, catalogue, candidates)
    item_AV = catalogue.items(answers.column_A, day_Q[answers.query_A])
    score_A = (query_QV[answers.query_A] * item_AV).sum(1) + extra[place_A]
    return ((log_partition_Q[answers.query_A] - score_A) * answers.weight_A).sum()
