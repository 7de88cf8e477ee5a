"""Scoring block by block equals scoring everything, gradients too."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from training.kernels import trained_softmax
from training.kernels.trained_softmax import PastPairs, TrainedCandidates
from training.losses.trained_loss import NextItems, trained_set_loss


def whole(query_QV: Tensor, candidates: TrainedCandidates, past: PastPairs, answers: NextItems) -> Tensor:
    """The same loss over a matrix of all scores. An answer is certain: it carries no correction."""
    width = candidates.vectors_CD.shape[1]
    scores_QC = query_QV[:, :width] @ candidates.vectors_CD.T
    scores_QC = scores_QC + torch.einsum("qp,pqc->qc", query_QV[:, width:], candidates.popularity_PTC[:, candidates.day_Q])
    scores_QC = scores_QC.index_put((past.query_M, past.column_M), past.repeat_M, accumulate=True)
    partition_Q = (scores_QC + candidates.bias_BC[candidates.window_Q]).logsumexp(1)
    nll_A = partition_Q[answers.query_A] - scores_QC[answers.query_A, answers.column_A]
    return (nll_A * answers.weight_A).sum()


@pytest.mark.parametrize(("num_queries", "num_past", "num_popularity"), [(3, 2, 1), (16, 4, 2), (17, 0, 1), (40, 5, 3)])
def test_blocks_equal_the_whole_matrix(
    monkeypatch: pytest.MonkeyPatch, num_queries: int, num_past: int, num_popularity: int
) -> None:
    monkeypatch.setattr(trained_softmax, "BLOCK_SCORES", 8 * 30)
    torch.manual_seed(num_queries)
    num_candidates, width, days, windows = 30, 6, 4, 2
    vectors_CD = torch.randn(num_candidates, width, requires_grad=True)
    query_QV = torch.randn(num_queries, width + num_popularity, requires_grad=True)
    past_query = torch.arange(num_queries).repeat_interleave(num_past)
    past_column = torch.cat([torch.randperm(num_candidates)[:num_past].sort().values for _ in range(num_queries)])
    repeat_M = (2 * torch.randn(len(past_query))).requires_grad_()
    candidates = TrainedCandidates(
        vectors_CD,
        torch.randn(num_popularity, days, num_candidates),
        torch.randint(days, (num_queries,)),
        torch.rand(windows, num_candidates),
        torch.randint(windows, (num_queries,)),
    )
    weight_A = torch.rand(2 * num_queries)
    answers = NextItems(torch.arange(num_queries).repeat(2), torch.randint(num_candidates, (2 * num_queries,)), weight_A)
    past = PastPairs(past_query, past_column, repeat_M)

    ours, truth = trained_set_loss(query_QV, candidates, past, answers), whole(query_QV, candidates, past, answers)

    torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-5)
    inputs: list[Tensor] = [query_QV, vectors_CD, *([repeat_M] if num_past else [])]
    for mine, theirs in zip(torch.autograd.grad(3 * ours, inputs), torch.autograd.grad(3 * truth, inputs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_two_candidates_by_hand() -> None:
    """Scores 0 and log 3: the answer has a quarter of the probability."""
    candidates = TrainedCandidates(
        vectors_CD=torch.tensor([[0.0], [1.0]]),
        popularity_PTC=torch.zeros(1, 1, 2),
        day_Q=torch.tensor([0]),
        bias_BC=torch.zeros(1, 2),
        window_Q=torch.tensor([0]),
    )
    nobody = PastPairs(torch.tensor([], dtype=torch.long), torch.tensor([], dtype=torch.long), torch.tensor([]))
    query_QV = torch.tensor([[torch.tensor(3.0).log(), 0.0]])
    answers = NextItems(torch.tensor([0]), torch.tensor([0]), torch.tensor([1.0]))
    loss = trained_set_loss(query_QV, candidates, nobody, answers)
    assert loss.item() == pytest.approx(torch.tensor(4.0).log().item())
    assert loss.item() == pytest.approx(functional.cross_entropy(torch.tensor([[0.0, 1.0986123]]), torch.tensor([0])).item())
