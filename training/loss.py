"""The set loss: every item of the next basket is a right answer, scored against the catalogue or a weighted sample of it.

Q: queries, C: candidates, A: answers
"""

import torch
from torch import Tensor


def set_loss(scores_QC: Tensor, answer_query_A: Tensor, answer_column_A: Tensor, answer_weights_A: Tensor) -> Tensor:
    """Weighted mean over answers of -log softmax(score)[answer]; weights sum to 1. In nats.

    With all items as candidates this is the exact loss; with a sample, `scores_QC` must come from `correct_for_sampling`.
    """
    log_partition_Q = torch.logsumexp(scores_QC, 1)
    nll_A = log_partition_Q[answer_query_A] - scores_QC[answer_query_A, answer_column_A]
    return (nll_A * answer_weights_A).sum()


def correct_for_sampling(scores_QC: Tensor, log_weight_C: Tensor, certain_query: Tensor, certain_column: Tensor) -> Tensor:
    """Add log(1/pi) to every score but those of pairs that are candidates for certain: a query's own items and answers.

    Then sum_C exp(score) is an unbiased estimate of the sum over the catalogue. Each certain pair may be named only once.
    """
    corrected = scores_QC + log_weight_C
    return corrected.index_put((certain_query, certain_column), -log_weight_C[certain_column], accumulate=True)
