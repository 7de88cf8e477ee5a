"""The kernels of stage 1 give what one dense softmax in float64 gives, gradients too, as well as torch does or better."""

from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.interpreter import checked
from training.kernels import frozen_softmax, trained_softmax
from training.kernels.trained_softmax import (
    PastPairs,
    TrainedCandidates,
    TrainedLogPartitionReference,
    TrainedLogPartitionTriton,
)

SCANS = ("softmax_scan", "softmax_scan_float32", "softmax_scan_popularity")
SMALL = {
    **{name: {"BLOCK_Q": 16, "BLOCK_C": 32} for name in SCANS},
    "softmax_pairs": {"BLOCK_C": 16},
    "candidate_gradient": {"BLOCK_Q": 32, "BLOCK_C": 16},
    "candidate_gradient_float32": {"BLOCK_Q": 16, "BLOCK_C": 32},
}


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    """Several programs and partial tiles in small problems."""
    with (
        mock.patch.multiple(frozen_softmax, configuration=lambda name, _: SMALL[name], PROGRAMS=6),
        mock.patch.object(trained_softmax, "configuration", lambda name, _: SMALL[name]),
    ):
        yield


@dataclass(frozen=True)
class Case:
    """What the op reads."""

    query_QV: Tensor
    candidates: TrainedCandidates
    past: PastPairs
    weight_Q: Tensor

    def to(self, dtype: torch.dtype) -> "Case":
        query_QV, vectors_CD, repeat_M = (
            tensor.detach().to(dtype).requires_grad_()
            for tensor in (self.query_QV, self.candidates.vectors_CD, self.past.repeat_M)
        )
        candidates = self.candidates._replace(
            vectors_CD=vectors_CD,
            popularity_PTC=self.candidates.popularity_PTC.to(dtype),
            bias_BC=self.candidates.bias_BC.to(dtype),
        )
        return Case(query_QV, candidates, self.past._replace(repeat_M=repeat_M), self.weight_Q.to(dtype))

    def run(self, implementation: type[torch.autograd.Function]) -> Tensor:
        vectors_CD, repeat_M = self.candidates.vectors_CD, self.past.repeat_M
        return implementation.apply(self.query_QV, vectors_CD, repeat_M, self.past, self.weight_Q, self.candidates)  # type: ignore[no-any-return, no-untyped-call]

    def dense(self) -> Tensor:
        """By a matrix of all scores, which autograd goes back through."""
        width = self.candidates.vectors_CD.shape[1]
        scores_QC = self.query_QV[:, :width] @ self.candidates.vectors_CD.T
        popularity_PQC = self.candidates.popularity_PTC[:, self.candidates.day_Q]
        scores_QC = scores_QC + torch.einsum("qp,pqc->qc", self.query_QV[:, width:], popularity_PQC)
        scores_QC = scores_QC.index_put((self.past.query_M, self.past.column_M), self.past.repeat_M, accumulate=True)
        return ((scores_QC + self.candidates.bias_BC[self.candidates.window_Q]).logsumexp(1) * self.weight_Q).sum()

    def gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, [self.query_QV, self.candidates.vectors_CD, self.past.repeat_M])


def make_case(
    seed: int, dtype: torch.dtype, num_queries: int, num_candidates: int, num_popularity: int, held: float, scale: float
) -> Case:
    """A share `held` of the pairs of a query and a candidate has a repeat score."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def places(high: int) -> Tensor:
        return torch.randint(high, (num_queries,), generator=generator)

    width, num_days, num_windows = 16 + 8 * (seed % 2), 3, 2
    query_M, column_M = torch.nonzero(torch.rand(num_queries, num_candidates, generator=generator) < held, as_tuple=True)
    weight_Q = torch.rand(num_queries, generator=generator) / num_queries
    candidates = TrainedCandidates(
        normal(num_candidates, width),
        normal(num_popularity, num_days, num_candidates),
        places(num_days),
        normal(num_windows, num_candidates).abs(),
        places(num_windows),
    )
    query_QV = scale * width**-0.5 * normal(num_queries, width + num_popularity)
    return Case(query_QV, candidates, PastPairs(query_M, column_M, normal(len(query_M))), weight_Q).to(dtype)


cases = st.builds(
    make_case,
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    num_queries=st.integers(1, 40),
    num_candidates=st.integers(1, 70),
    num_popularity=st.integers(0, 3),
    held=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    scale=st.sampled_from([1.0, 30.0]),
)


@given(cases)
@example(make_case(3, torch.float16, 33, 50, 2, held=0.1, scale=3.0))
@example(make_case(4, torch.bfloat16, 17, 65, 1, held=0.1, scale=3.0))
@example(make_case(5, torch.float32, 17, 65, 1, held=0.1, scale=30.0))  # scores near 100
@settings(deadline=None, max_examples=4, derandomize=True)
def test_the_kernels_are_no_worse_than_torch(case: Case) -> None:
    compare(case)


@pytest.mark.kernels
@given(cases)
@settings(deadline=None, max_examples=60)
def test_the_kernels_are_no_worse_than_torch_on_many_shapes(case: Case) -> None:
    compare(case)


def compare(case: Case) -> None:
    """Loss and gradients, by the kernels and by torch, with the truth."""
    exact = case.to(torch.float64)
    truth, theirs = exact.dense(), case.run(TrainedLogPartitionReference)
    with checked():
        ours = case.run(TrainedLogPartitionTriton)
        our_gradients = case.gradients(3 * ours)
    no_worse(ours, theirs, truth)
    for mine, its, true in zip(our_gradients, case.gradients(3 * theirs), exact.gradients(3 * truth), strict=True):
        no_worse(mine, its, true)


def no_worse(ours: Tensor, theirs: Tensor, truth: Tensor) -> None:
    """The largest error is at most twice torch's in the same precision, give or take the last places."""
    assert ours.dtype == theirs.dtype
    if truth.numel():
        last = torch.finfo(ours.dtype).eps + 8 * torch.finfo(torch.float32).eps
        allowed = 2 * (theirs - truth).abs().max() + last * truth.abs().max() + 1e-7
        assert (ours - truth).abs().max() <= allowed


def test_the_reference_is_what_autograd_makes_of_the_definition() -> None:
    case = make_case(6, torch.float64, 23, 40, 2, held=0.2, scale=2.0)
    with mock.patch.object(trained_softmax, "BLOCK_SCORES", 8 * 40):
        ours = case.run(TrainedLogPartitionReference)
    truth = case.dense()
    torch.testing.assert_close(ours, truth)
    for mine, true in zip(case.gradients(ours), case.gradients(truth), strict=True):
        torch.testing.assert_close(mine, true)


@pytest.mark.parametrize("weight", [0.0, 1e-30])
def test_queries_that_weigh_nothing_leave_no_gradient(weight: float) -> None:
    case = make_case(8, torch.float16, 5, 9, 1, held=0.3, scale=1.0)
    light = Case(case.query_QV, case.candidates, case.past, torch.full((5,), weight))
    with checked():
        gradients = light.gradients(light.run(TrainedLogPartitionTriton))
    assert all(gradient.abs().max() == 0 for gradient in gradients)


def test_two_candidates_by_hand() -> None:
    """Exponentials 1 and 3 under a repeat of log 2 for the first: 2 + 3, and candidates' gradients share the query 2 to 3."""
    query_QV = torch.zeros(1, 16)
    query_QV[0, 0] = 1.0
    vectors_CD = torch.zeros(2, 16)
    vectors_CD[1, 0] = torch.tensor(3.0).log()
    one = torch.tensor([0])
    candidates = TrainedCandidates(vectors_CD, torch.zeros(0, 1, 2), one, torch.zeros(1, 2), one)
    case = Case(query_QV, candidates, PastPairs(one, one, torch.tensor([2.0]).log()), torch.ones(1)).to(torch.float32)
    with checked():
        found = case.run(TrainedLogPartitionTriton)
        gradients = case.gradients(found)
    assert found.exp().item() == pytest.approx(5)
    assert gradients[1][:, 0].tolist() == pytest.approx([2 / 5, 3 / 5])
    assert gradients[2].item() == pytest.approx(2 / 5)
