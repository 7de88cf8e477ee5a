"""The kernels of stage 2 give what one dense softmax in float64 gives, as well as torch does or better."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from unittest import mock

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.interpreter import checked
from training.kernels import frozen_softmax
from training.kernels.candidates import CandidateSet, Certain, ItemVectors, Pool, WholeCatalogue, aligned
from training.kernels.frozen_softmax import frozen_softmax_triton
from training.kernels.softmax_state import SoftmaxState
from training.kernels.softmax_tiles import frozen_softmax_reference

SCANS = ("softmax_scan", "softmax_scan_float32", "softmax_scan_popularity")
SMALL = {**{name: {"BLOCK_Q": 16, "BLOCK_C": 32} for name in SCANS}, "softmax_pairs": {"BLOCK_C": 16}}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
Answer = tuple[SoftmaxState, Tensor]


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    """Several programs and partial tiles in small problems."""
    with mock.patch.multiple(frozen_softmax, configuration=lambda name, _: SMALL[name], PROGRAMS=6, GATHERED=24):
        yield


@dataclass(frozen=True)
class Case:
    """What the op reads. Queries and items are of the precision it is tried in; popularity and weights are single."""

    query_QV: Tensor
    extra_M: Tensor
    certain: Certain
    day_Q: Tensor
    catalogue: ItemVectors
    candidates: CandidateSet

    def kernels(self) -> Answer:
        with checked():
            return frozen_softmax_triton(
                self.query_QV.float(), self.extra_M, self.certain, self.day_Q, self.catalogue, self.candidates
            )

    def reference(self, dtype: torch.dtype) -> Answer:
        """All of it in one precision."""
        catalogue = ItemVectors(self.catalogue.vectors_ND.to(dtype), self.catalogue.popularity_PTN.to(dtype))
        candidates = self.candidates
        if isinstance(candidates, Pool):
            candidates = replace(candidates, log_weight_K=candidates.log_weight_K.to(dtype))
        return frozen_softmax_reference(
            self.query_QV.to(dtype), self.extra_M.to(dtype), self.certain, self.day_Q, catalogue, candidates
        )


def make_case(
    seed: int, dtype: torch.dtype, num_queries: int, num_items: int, num_popularity: int, share: float, held: float, scale: float
) -> Case:
    """`share` of the items is a pool; 1 is the whole catalogue. A share `held` of the pairs is certain."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    width, num_days = 16 + 8 * (seed % 2), 3
    certain = Certain(*torch.nonzero(uniform(num_queries, num_items) < held, as_tuple=True))
    extra_M = normal(len(certain.rows_M))
    rows_K = torch.nonzero(uniform(num_items) < share)[:, 0]
    popularity_PTN = normal(num_days, num_items, num_popularity).movedim(2, 0).to(dtype)  # of one item together, or of one kind
    return Case(
        query_QV=(scale * width**-0.5 * normal(num_queries, width + num_popularity)).to(dtype),
        extra_M=torch.where(uniform(len(extra_M)) < 0.2, -torch.inf, extra_M),
        certain=certain,
        day_Q=(uniform(num_queries) * num_days).long(),
        catalogue=ItemVectors(
            normal(num_items, width).to(dtype), (popularity_PTN, popularity_PTN.contiguous(), aligned(popularity_PTN))[seed % 3]
        ),
        candidates=WholeCatalogue(num_items) if share == 1 else Pool(rows_K, normal(len(rows_K)).to(dtype).float()),
    )


cases = st.builds(
    make_case,
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from(DTYPES),
    num_queries=st.integers(0, 40),
    num_items=st.integers(1, 100),
    num_popularity=st.integers(0, 3),
    share=st.sampled_from([0.0, 0.4, 0.9, 1.0]),
    held=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    scale=st.sampled_from([1.0, 30.0]),
)


@given(cases)
@example(make_case(3, torch.float16, 33, 130, 2, share=1.0, held=0.1, scale=3.0))
@example(make_case(4, torch.bfloat16, 17, 70, 1, share=0.5, held=0.1, scale=3.0))
@example(make_case(7, torch.float32, 3, 100, 0, share=0.5, held=1.0, scale=9.0))  # many pairs of each query
@settings(deadline=None, max_examples=5, derandomize=True)
def test_the_kernels_are_no_worse_than_torch(case: Case) -> None:
    compare(case)


@pytest.mark.kernels
@given(cases)
@settings(deadline=None, max_examples=60)
def test_the_kernels_are_no_worse_than_torch_on_many_shapes(case: Case) -> None:
    compare(case)


def compare(case: Case) -> None:
    """States and scores, by the kernels and by torch, with the truth."""
    ours, theirs, truth = case.kernels(), case.reference(case.query_QV.dtype), case.reference(torch.float64)
    for name in ("log_partition_Q", "mean_QV"):
        no_worse(*(getattr(state, name) for state, _ in (ours, theirs, truth)))
    no_worse(ours[1], theirs[1], truth[1])


def no_worse(ours: Tensor, theirs: Tensor, truth: Tensor) -> None:
    """The largest error is at most twice torch's in the same precision; what is not finite is the same."""
    assert ours.dtype == torch.float32
    known = truth.isfinite()
    torch.testing.assert_close(ours[~known].double(), truth[~known], rtol=0, atol=0, equal_nan=True)
    if known.any():
        ours, theirs, truth = ours[known].double(), theirs[known].double(), truth[known]
        allowed = 2 * (theirs - truth).abs().max() + 1e-6 * truth.abs().max().clamp(min=1)
        assert (ours - truth).abs().max() <= allowed


@pytest.mark.parametrize("programs", [1, 7, 1000])
def test_splits_of_the_candidates_merge_to_the_whole(monkeypatch: pytest.MonkeyPatch, programs: int) -> None:
    monkeypatch.setattr(frozen_softmax, "PROGRAMS", programs)
    case = make_case(1, torch.float32, 5, 101, 1, share=1.0, held=0.1, scale=1.0)

    ours, truth = case.kernels()[0], case.reference(torch.float64)[0]

    torch.testing.assert_close(ours.log_partition_Q.double(), truth.log_partition_Q, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.mean_QV.double(), truth.mean_QV, rtol=1e-5, atol=1e-6)


def test_the_mean_is_the_gradient_of_the_log_partition() -> None:
    case = make_case(5, torch.float32, 19, 60, 2, share=1.0, held=0.1, scale=2.0)
    query_QV = case.query_QV.double().requires_grad_()
    items = torch.cat([case.catalogue.vectors_ND[None].expand(19, -1, -1), *pages(case)], 2).double()
    scores_QN = torch.einsum("qv,qnv->qn", query_QV, items)
    at = case.certain.query_M, case.certain.rows_M
    log_partition_Q = scores_QN.index_put(at, scores_QN[at] + case.extra_M.double()).logsumexp(1)

    ours = case.kernels()[0]

    torch.testing.assert_close(ours.log_partition_Q.double(), log_partition_Q, rtol=1e-6, atol=1e-6)
    gradient_QV = torch.autograd.grad(log_partition_Q.sum(), query_QV)[0]
    torch.testing.assert_close(ours.mean_QV.double(), gradient_QV, rtol=1e-5, atol=1e-6)


def pages(case: Case) -> list[Tensor]:
    """Each popularity dimension as every query sees it, [Q, N, 1]."""
    return [popularity_TN[case.day_Q, : len(case.catalogue.vectors_ND), None] for popularity_TN in case.catalogue.popularity_PTN]


def by_hand(scores: list[float], pairs: list[tuple[int, float]], pool: Pool | None = None) -> SoftmaxState:
    """One query before items of one dimension that matters; pairs are a row and its extra."""
    vectors_ND = torch.zeros(len(scores), 16)
    vectors_ND[:, 0] = torch.tensor(scores)
    query_QV = torch.zeros(1, 16)
    query_QV[0, 0] = 1.0
    rows, extras = zip(*pairs, strict=True) if pairs else ((), ())
    certain = Certain(torch.zeros(len(rows), dtype=torch.long), torch.tensor(rows, dtype=torch.long))
    catalogue = ItemVectors(vectors_ND, torch.zeros(0, 1, len(scores)))
    extra_M = torch.tensor(extras)
    case = Case(query_QV, extra_M, certain, torch.tensor([0]), catalogue, WholeCatalogue(len(scores)) if pool is None else pool)
    return case.kernels()[0]


def log(*values: float) -> list[float]:
    return torch.tensor(values).log().tolist()


def test_two_candidates_by_hand() -> None:
    """Exponentials 1 and 3: the mean leans three quarters to the second."""
    state = by_hand(log(1.0, 3.0), [])
    assert state.log_partition_Q.exp().item() == pytest.approx(4.0)
    assert state.mean_QV[0, 0].item() == pytest.approx(0.75 * log(3.0)[0])


def test_a_drawn_candidate_stands_for_as_many_as_its_weight_says() -> None:
    state = by_hand(log(2.0, 3.0, 5.0), [], Pool(torch.tensor([0, 2]), torch.tensor(log(10.0, 1.0))))
    assert state.log_partition_Q.exp().item() == pytest.approx(2 * 10 + 5)


def test_a_certain_item_counts_once_whether_it_was_drawn_or_not_and_without_the_weight() -> None:
    pool = Pool(torch.tensor([0, 2]), torch.tensor(log(10.0, 5.0)))
    state = by_hand(log(1.0, 1.0, 1.0), [(0, log(2.0)[0]), (1, log(3.0)[0])], pool)
    assert state.log_partition_Q.exp().item() == pytest.approx(2 + 3 + 5)


def test_an_accidental_hit_is_taken_out() -> None:
    state = by_hand(log(2.0, 3.0, 5.0), [(1, -torch.inf)])
    assert state.log_partition_Q.exp().item() == pytest.approx(2 + 5)


def test_where_everything_is_taken_out_nothing_counts() -> None:
    state = by_hand([0.0] * 40, [(row, -torch.inf) for row in range(40)])
    assert state.log_partition_Q.item() == -torch.inf
    assert state.total_Q.item() == 0


def test_an_empty_pool_leaves_the_certain_items() -> None:
    nothing = Pool(torch.zeros(0, dtype=torch.long), torch.zeros(0))
    assert by_hand(log(2.0, 3.0), [(1, 0.0)], nothing).log_partition_Q.exp().item() == pytest.approx(3)
    assert by_hand(log(2.0, 3.0), [], nothing).log_partition_Q.item() == -torch.inf


def test_a_nan_spoils_its_own_query_alone() -> None:
    case = make_case(2, torch.float32, 20, 40, 1, share=1.0, held=0.1, scale=1.0)
    well, ill = case.kernels()[0], case.query_QV.clone()
    ill[7, 3] = torch.nan
    state = replace(case, query_QV=ill).kernels()[0]
    others = torch.arange(20) != 7
    assert state.log_partition_Q[7].isnan()
    assert state.log_partition_Q[others].equal(well.log_partition_Q[others])
