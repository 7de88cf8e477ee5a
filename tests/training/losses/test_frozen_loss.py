"""The loss over frozen items: streamed it equals the dense one, from pools it does in expectation."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from training.kernels.candidates import CandidateSet, ItemVectors, Pool, WholeCatalogue
from training.kernels.trained_softmax import PastPairs
from training.losses.candidates import PROPOSALS
from training.losses.frozen_loss import frozen_set_loss
from training.losses.trained_loss import NextItems
from training.recipes.config import Negatives

WIDTH = 5


@dataclass(frozen=True)
class Case:
    """Queries with past items, some of them answers, before a frozen catalogue."""

    query_QV: Tensor
    past: PastPairs
    answers: NextItems
    day_Q: Tensor
    catalogue: ItemVectors

    def loss(self, candidates: CandidateSet) -> Tensor:
        return frozen_set_loss(self.query_QV, self.past, self.answers, self.day_Q, self.catalogue, candidates)

    def scores(self) -> Tensor:
        popularity_PQN = self.catalogue.popularity_PTN[:, self.day_Q]
        dots_QN = self.query_QV[:, :WIDTH] @ self.catalogue.vectors_ND.T
        scores_QN = dots_QN + torch.einsum("qp,pqn->qn", self.query_QV[:, WIDTH:], popularity_PQN)
        return scores_QN.index_put((self.past.query_M, self.past.column_M), self.past.repeat_M, accumulate=True)

    def nll(self, log_partition_Q: Tensor) -> Tensor:
        nll_A = log_partition_Q[self.answers.query_A] - self.scores()[self.answers.query_A, self.answers.column_A]
        return (nll_A * self.answers.weight_A).sum()

    def gradients(self, loss: Tensor) -> Sequence[Tensor]:
        return torch.autograd.grad(loss, [self.query_QV, self.past.repeat_M])


def make_case(num_items: int, num_past: int, num_popularity: int, num_queries: int = 6) -> Case:
    torch.manual_seed(num_items)
    past_rows = [torch.randperm(num_items)[:num_past].sort().values for _ in range(num_queries)]
    answers = torch.stack([torch.randperm(num_items)[:2] for _ in range(num_queries)])
    if num_past:
        answers[:, 0] = past_rows[0][0]  # for the first query at least, a repeat
        answers[:, 1] = (answers[:, 0] + 1) % num_items
    weights = torch.rand(2 * num_queries, dtype=torch.float64)
    return Case(
        query_QV=torch.randn(num_queries, WIDTH + num_popularity, dtype=torch.float64, requires_grad=True),
        past=PastPairs(
            torch.arange(num_queries).repeat_interleave(num_past),
            torch.cat(past_rows),
            (2 * torch.randn(num_queries * num_past, dtype=torch.float64)).requires_grad_(),
        ),
        answers=NextItems(torch.arange(num_queries).repeat_interleave(2), answers.flatten(), weights / weights.sum()),
        day_Q=torch.randint(3, (num_queries,)),
        catalogue=ItemVectors(
            torch.randn(num_items, WIDTH, dtype=torch.float64), torch.randn(num_popularity, 3, num_items, dtype=torch.float64)
        ),
    )


@pytest.mark.parametrize(("num_items", "num_past"), [(7, 3), (64, 0), (65, 5), (9000, 9)])
@pytest.mark.parametrize("num_popularity", [1, 2])
def test_streaming_equals_scoring_everything(num_items: int, num_past: int, num_popularity: int) -> None:
    case = make_case(num_items, num_past, num_popularity)
    streamed, whole = case.loss(WholeCatalogue(num_items)), case.nll(case.scores().logsumexp(1))
    torch.testing.assert_close(streamed, whole)
    for ours, truth in zip(case.gradients(streamed), case.gradients(whole), strict=True):
        torch.testing.assert_close(ours, truth)


@pytest.mark.parametrize("name", ["uniform", "popular"])
@pytest.mark.parametrize("size", [1, 3])
def test_a_pool_estimates_the_whole_partition_without_bias(name: Negatives, size: int) -> None:
    """Over all 2^6 pools, each with its probability: past items and answers count once, whether they fell into it or not."""
    case = make_case(num_items=6, num_past=2, num_popularity=1, num_queries=1)
    proposal = PROPOSALS[name](np.array([0.5, 0.2, 0.0, 0.1, 0.1, 0.9]), size)
    answer_score = (case.scores()[0, case.answers.column_A] * case.answers.weight_A).sum()
    expected, total = 0.0, 0.0
    for flags in product([False, True], repeat=6):
        chosen_N = np.array(flags)
        rows = np.flatnonzero(chosen_N)
        pool = Pool(torch.from_numpy(rows), torch.from_numpy(proposal.log_weight_N[rows]))
        probability = float(np.where(chosen_N, proposal.inclusion_N, 1 - proposal.inclusion_N).prod())
        expected += probability * (case.loss(pool) + answer_score).exp().item()
        total += probability
    assert total == pytest.approx(1)
    assert expected == pytest.approx(case.scores().exp().sum().item(), rel=1e-6)


def test_a_pool_of_everything_is_the_whole_catalogue() -> None:
    case = make_case(num_items=40, num_past=3, num_popularity=1)
    pooled, whole = case.loss(Pool(torch.arange(40), torch.zeros(40))), case.loss(WholeCatalogue(40))
    torch.testing.assert_close(pooled, whole)
    for ours, truth in zip(case.gradients(pooled), case.gradients(whole), strict=True):
        torch.testing.assert_close(ours, truth)


def test_gradients_of_a_pool_are_those_of_its_dense_softmax() -> None:
    case = make_case(num_items=40, num_past=3, num_popularity=2)
    rows, weight = torch.arange(0, 40, 3), torch.log(torch.tensor(3.0))
    log_weight_QN = torch.full((6, 40), -torch.inf, dtype=torch.float64)
    log_weight_QN[:, rows] = weight.double()
    log_weight_QN[case.past.query_M, case.past.column_M] = 0.0
    log_weight_QN[case.answers.query_A, case.answers.column_A] = 0.0
    pooled = case.loss(Pool(rows, weight.expand(len(rows))))
    dense = case.nll((case.scores() + log_weight_QN).logsumexp(1))
    torch.testing.assert_close(pooled, dense)
    for ours, truth in zip(case.gradients(pooled), case.gradients(dense), strict=True):
        torch.testing.assert_close(ours, truth)


def test_by_hand() -> None:
    """Scores 0, log 2 and log 5; the answer, the second, is also a past item and gains log 3 by it: 6 of 12."""
    catalogue = ItemVectors(torch.tensor([1.0, 2.0, 5.0]).log()[:, None], torch.zeros(0, 1, 3))
    past = PastPairs(torch.tensor([0]), torch.tensor([1]), torch.tensor([3.0]).log())
    answers = NextItems(torch.tensor([0]), torch.tensor([1]), torch.tensor([1.0]))
    loss = frozen_set_loss(torch.ones(1, 1), past, answers, torch.tensor([0]), catalogue, WholeCatalogue(3))
    assert loss.item() == pytest.approx(np.log(2))
