"""Ranks, likelihoods and best items from the scores of a batch of queries, on the CPU and on a GPU.

Q: queries, A: answers of all queries, N: items, K: places of a list, M: past items of all queries, C: answers, each once
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.evaluation.metrics import Array, batch_local, likelihood
from twotower.data.features import Ints
from twotower.metrics.ranking import tied_ranks

MASKED = -1e9  # finite, so that the entropy stays a number
PLACES = 10
NOT_FINITE = "the ranker's scores are not finite: the model is broken, train it again"
ANSWERS_AT_ONCE = 8  # on a GPU: each takes a row of N comparisons


class RankedBatch(NamedTuple):
    """The fields of `Rankings` that depend on the ranker, for one batch."""

    rank_A: Array
    unseen_rank_A: Array
    local_rank_A: Array
    nll_A: Array
    local_nll_A: Array
    entropy_Q: Array
    top10_QK: Ints


def rank_on_cpu(
    scores_QN: Tensor, answers: Sequence[Ints], past: Sequence[Ints], is_masked: Sequence[bool], has_probabilities: bool
) -> RankedBatch:
    """Rank query by query, so that a row of scores stays in the cache and no second matrix is made.

    `answers` and `past` hold the rows of each query; `is_masked` says of which queries past items are no candidates. Their
    scores are overwritten. ValueError for scores that are not finite.
    """
    if not math.isfinite(scores_QN.sum().item()):
        raise ValueError(NOT_FINITE)
    ranks, nll, entropies, masked = [], [], [], []
    for scores_N, rows, past_rows, without_past in zip(scores_QN.numpy(), answers, past, is_masked, strict=True):
        if without_past:
            scores_N[past_rows] = MASKED
        ranks.append(tied_ranks(scores_N, rows, past_rows))
        log_partition, entropy = likelihood(scores_N) if has_probabilities else (np.nan, np.nan)
        nll.append(log_partition - scores_N[rows].astype(np.float64))
        masked.append(np.isin(rows, past_rows) & without_past)
        entropies.append(entropy)
    overall, unseen = (np.concatenate(r) for r in zip(*ranks, strict=True))
    # The only copy of scores, and a small one: a few hundred columns.
    local_rank_A, local_nll_A = batch_local(scores_QN.numpy(), answers, has_probabilities)
    # A masked answer has no likelihood.
    nll_A, local_nll_A = (np.where(np.concatenate(masked), np.nan, each) for each in (np.concatenate(nll), local_nll_A))
    top = torch.topk(scores_QN, min(PLACES, scores_QN.shape[1])).indices.numpy()
    return RankedBatch(overall, unseen, local_rank_A, nll_A, local_nll_A, np.array(entropies), top)


def rank_on_device(
    scores_QN: Tensor, answers: Sequence[Ints], past: Sequence[Ints], is_masked: Sequence[bool], has_probabilities: bool
) -> RankedBatch:
    """The same where the scores lie. They stay there: only ranks, likelihoods, best items and the answers' columns are copied."""
    device = scores_QN.device
    is_finite = torch.isfinite(scores_QN.sum())
    for scores_N, past_rows, without_past in zip(scores_QN, past, is_masked, strict=True):
        if without_past:
            scores_N[torch.from_numpy(past_rows).to(device)] = MASKED
    ranks, nll, entropies = [], [], []
    for scores_N, rows, past_rows in zip(scores_QN, answers, past, strict=True):
        score_A = scores_N[torch.from_numpy(rows).to(device)]
        ranks.append(_tied_ranks(scores_N, score_A, torch.from_numpy(past_rows).to(device)))
        log_partition, entropy = _likelihood(scores_N) if has_probabilities else scores_N.new_full((2,), torch.nan).double()
        nll.append(log_partition - score_A.double())
        entropies.append(entropy)
    if not is_finite.item():  # here, so that the queue of work is waited for once
        raise ValueError(NOT_FINITE)
    columns_C = np.unique(np.concatenate(answers))
    few_QC = scores_QN[:, torch.from_numpy(columns_C).to(device)].cpu().numpy()
    local_rank_A, local_nll_A = batch_local(few_QC, [np.searchsorted(columns_C, rows) for rows in answers], has_probabilities)
    overall_A, unseen_A = torch.cat(ranks, 1).cpu().numpy()
    groups = zip(answers, past, is_masked, strict=True)
    masked_A = np.concatenate([np.isin(rows, past_rows) & without for rows, past_rows, without in groups])
    nll_A, local_nll_A = (np.where(masked_A, np.nan, each) for each in (torch.cat(nll).cpu().numpy(), local_nll_A))
    top = torch.topk(scores_QN, min(PLACES, scores_QN.shape[1])).indices.cpu().numpy()
    entropy_Q = torch.stack(entropies).cpu().numpy()
    return RankedBatch(overall_A, unseen_A, local_rank_A, nll_A, local_nll_A, entropy_Q, top)


def _tied_ranks(scores_N: Tensor, score_A: Tensor, past_rows_M: Tensor) -> Tensor:
    """`tied_ranks` in torch: ranks among all items, and among those not past, [2, A]."""
    past_M, parts = scores_N[past_rows_M], []
    for score in torch.split(score_A, ANSWERS_AT_ONCE):
        better, equal = (_counted(compare, scores_N, score) for compare in (torch.gt, torch.eq))
        past_better, past_equal = (_counted(compare, past_M, score) for compare in (torch.gt, torch.eq))
        overall = 1 + better + (equal - 1) / 2
        parts.append(torch.stack([overall, overall - past_better - past_equal / 2]))
    return torch.cat(parts, 1)


def _counted(compare: Callable[[Tensor, Tensor], Tensor], scores_N: Tensor, score_A: Tensor) -> Tensor:
    return compare(scores_N, score_A[:, None]).sum(1).double()


def _likelihood(scores_N: Tensor) -> tuple[Tensor, Tensor]:
    """`likelihood` in torch, summed in float64."""
    wide_N = scores_N.double()
    log_partition = torch.logsumexp(wide_N, 0)
    return log_partition, log_partition - (torch.exp(wide_N - log_partition) * wide_N).sum()
