"""Tiles of the catalogue or of a pool give what one dense softmax gives, gradients too."""

from dataclasses import dataclass, replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.kernels import softmax_tiles as module
from training.kernels.candidates import CandidateSet, Certain, ItemVectors, Pool, WholeCatalogue
from training.kernels.softmax_state import SoftmaxState, empty_state, merge
from training.losses.frozen_log_partition import frozen_log_partition

TILES = mock.patch.multiple(module, TILE_SCORES=12, TILE_QUERIES=3, MISSING_QUERIES=2)


@dataclass(frozen=True)
class Case:
    """Everything frozen_log_partition reads; every query has at least one certain item."""

    query_QV: Tensor
    extra_M: Tensor
    certain: Certain
    day_Q: Tensor
    catalogue: ItemVectors
    candidates: CandidateSet

    def run(self) -> Tensor:
        return frozen_log_partition(self.query_QV, self.extra_M, self.certain, self.day_Q, self.catalogue, self.candidates)

    def dense(self) -> Tensor:
        """The same by a matrix of all scores: -inf for what is neither a candidate nor certain."""
        num_items, width = self.catalogue.vectors_ND.shape
        log_weight_N = torch.full((num_items,), -torch.inf, dtype=self.query_QV.dtype)
        match self.candidates:
            case WholeCatalogue():
                log_weight_N[:] = 0.0
            case Pool(rows_K, log_weight_K):
                log_weight_N[rows_K] = log_weight_K
        raw_QN = self.query_QV[:, :width] @ self.catalogue.vectors_ND.T
        popularity_PQN = self.catalogue.popularity_PTN[:, self.day_Q]
        raw_QN = raw_QN + torch.einsum("qp,pqn->qn", self.query_QV[:, width:], popularity_PQN)
        at = self.certain.query_M, self.certain.rows_M
        return (raw_QN + log_weight_N).index_put(at, raw_QN[at] + self.extra_M).logsumexp(1)

    def gradients(self, log_partition_Q: Tensor) -> tuple[Tensor, ...]:
        weight_Q = torch.linspace(-1, 2, len(log_partition_Q), dtype=log_partition_Q.dtype)
        return torch.autograd.grad((log_partition_Q * weight_Q).sum(), [self.query_QV, self.extra_M])

    def to(self, dtype: torch.dtype) -> "Case":
        catalogue = ItemVectors(self.catalogue.vectors_ND.to(dtype), self.catalogue.popularity_PTN.to(dtype))
        candidates = self.candidates
        if isinstance(candidates, Pool):
            candidates = replace(candidates, log_weight_K=candidates.log_weight_K.to(dtype))
        query_QV, extra_M = (t.detach().to(dtype).requires_grad_() for t in (self.query_QV, self.extra_M))
        return replace(self, query_QV=query_QV, extra_M=extra_M, catalogue=catalogue, candidates=candidates)


def make_case(seed: int, num_queries: int, num_items: int, num_popularity: int, share: float, scale: float) -> Case:
    """`share` of the items is a pool; 1 is the whole catalogue. Scores spread as far as `scale`."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    width, num_days = 3, 4
    held_QN = uniform(num_queries, num_items) < 0.2
    held_QN[:, seed % num_items] = True
    certain = Certain(*torch.nonzero(held_QN, as_tuple=True))
    rows_K = torch.nonzero(uniform(num_items) < share)[:, 0]
    case = Case(
        query_QV=scale * normal(num_queries, width + num_popularity),
        extra_M=normal(len(certain.rows_M)),
        certain=certain,
        day_Q=(uniform(num_queries) * num_days).long(),
        catalogue=ItemVectors(normal(num_items, width), normal(num_popularity, num_days, num_items)),
        candidates=WholeCatalogue(num_items) if share == 1 else Pool(rows_K, normal(len(rows_K))),
    )
    return case.to(torch.float64)


cases = st.builds(
    make_case,
    seed=st.integers(0, 10**6),
    num_queries=st.integers(0, 8),
    num_items=st.integers(1, 23),
    num_popularity=st.integers(0, 2),
    share=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    scale=st.sampled_from([1.0, 1e5]),
)


@given(cases)
@settings(deadline=None, max_examples=50)
def test_tiles_add_up_to_the_dense_softmax(case: Case) -> None:
    with TILES:
        ours = case.run()
    truth = case.dense()
    torch.testing.assert_close(ours, truth, rtol=1e-11, atol=1e-11)
    for mine, theirs in zip(case.gradients(ours), case.gradients(truth), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@given(cases)
@settings(deadline=None, max_examples=50)
def test_single_precision_is_about_as_good_as_the_dense_softmax_in_it(case: Case) -> None:
    single = case.to(torch.float32)
    with TILES:
        ours = single.run()
    truth, theirs = single.to(torch.float64).dense(), single.dense()
    allowed = 4 * (theirs - truth).abs().max() if len(truth) else 0.0
    assert ((ours - truth).abs() <= allowed + 1e-6 * truth.abs() + 1e-6).all()


def test_two_candidates_by_hand() -> None:
    """Scores 0 and log 3: their exponentials add up to 4, and the mean item leans three quarters to the second."""
    query_QV = torch.tensor([[torch.tensor(3.0).log()]], requires_grad=True)
    catalogue = ItemVectors(torch.tensor([[0.0], [1.0]]), torch.zeros(0, 1, 2))
    nothing = Certain(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    found = frozen_log_partition(query_QV, torch.zeros(0), nothing, torch.tensor([0]), catalogue, WholeCatalogue(2))
    assert found.exp().item() == pytest.approx(4.0)
    assert torch.autograd.grad(found.sum(), query_QV)[0].item() == pytest.approx(0.75)


def test_a_certain_item_that_was_drawn_counts_once_and_without_the_drawn_ones_weight() -> None:
    catalogue = ItemVectors(torch.zeros(3, 1), torch.zeros(0, 1, 3))
    drawn = Pool(torch.tensor([0, 2]), torch.tensor([10.0, 5.0]).log())
    certain = Certain(torch.tensor([0, 0]), torch.tensor([0, 1]))  # one drawn, one not
    found = frozen_log_partition(torch.zeros(1, 1), torch.tensor([2.0, 3.0]).log(), certain, torch.tensor([0]), catalogue, drawn)
    assert found.exp().item() == pytest.approx(2.0 + 3.0 + 5.0)


def test_nothing_seen_changes_nothing() -> None:
    seen = SoftmaxState(torch.tensor([3.0]), torch.tensor([2.0]), torch.tensor([[1.0, -1.0]]))
    none = empty_state(torch.zeros(1, 2))
    for merged in (merge(seen, none), merge(none, seen)):
        assert merged.log_partition_Q.equal(seen.log_partition_Q)
        assert merged.mean_QV.equal(seen.mean_QV)
    assert merge(none, none).log_partition_Q.item() == -torch.inf


def test_sums_stay_in_single_precision_under_autocast() -> None:
    case = make_case(7, 6, 20, 1, share=0.9, scale=1.0).to(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = case.run()
    assert inside.equal(case.run())
