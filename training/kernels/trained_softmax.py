"""The trained softmax (stage 1): log partitions with gradients to queries, candidates and repeat scores, without a [Q, C] matrix.

The result is a weighted sum over queries. Because the weights are known, a CPU computes all gradients in one pass: a block of
queries is scored against all candidates, turned into probabilities and multiplied back into gradients while it is in the cache.
On a GPU the forward pass computes the gradients of queries and repeat scores; those of candidates come from scores computed
again (Wijmans et al. 2024), because otherwise every program would have to add to every candidate.

Q: queries, C: candidates, V: width of scored vectors (D + P), D: item vector width, P: popularity dimensions,
T: distinct days, B: windows, M: past items of all queries, A: answers, S: queries of a block
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.kernels.candidates import ItemVectors, aligned
from training.kernels.frozen_softmax import Queries, item_shape, num_columns, precision, scan_pairs, scan_span
from training.kernels.softmax_state import BITS, finite, merge
from twotower.kernels.configurations import configuration, current_target
from twotower.kernels.dispatch import jit, tl, use_triton

BLOCK_SCORES = 400_000  # scores of a block of queries: 1.6 MB, which fit the processor's cache


class TrainedCandidates(NamedTuple):
    """The candidates of a step. Score = <query, [vector, popularity on the query's day]> + bias of its window + repeat score."""

    vectors_CD: Tensor
    popularity_PTC: Tensor  # log popularity on the distinct days of the queries
    day_Q: Tensor  # index of the query's day among the T distinct ones
    bias_BC: Tensor  # correction for sampling: log of one over the probability to be among the candidates
    window_Q: Tensor

    def of(self, query_A: Tensor, column_A: Tensor) -> Tensor:
        """Scored vectors [A, V] of pairs of a query and a candidate."""
        return torch.cat([self.vectors_CD[column_A], self.popularity_PTC[:, self.day_Q[query_A], column_A].T], 1)


class PastPairs(NamedTuple):
    """What is added to the scores of past items. Pairs are distinct, sorted by query and then by column."""

    query_M: Tensor
    column_M: Tensor
    repeat_M: Tensor


def trained_log_partition(query_QV: Tensor, candidates: TrainedCandidates, past: PastPairs, weight_Q: Tensor) -> Tensor:
    """sum_q weight_q log sum_c exp(score_qc), in nats. Gradients flow to queries, vectors and repeat scores."""
    on_gpu = use_triton(query_QV.detach(), candidates.vectors_CD.detach())
    implementation = TrainedLogPartitionTriton if on_gpu else TrainedLogPartitionReference
    with torch.autocast(query_QV.device.type, enabled=False):
        return implementation.apply(query_QV, candidates.vectors_CD, past.repeat_M, past, weight_Q, candidates)  # type: ignore[no-any-return, no-untyped-call]


class TrainedLogPartitionReference(torch.autograd.Function):
    """On a CPU, block by block of queries."""

    @staticmethod
    def forward(
        ctx: Any,
        query_QV: Tensor,
        vectors_CD: Tensor,
        repeat_M: Tensor,
        past: PastPairs,
        weight_Q: Tensor,
        candidates: TrainedCandidates,
    ) -> Tensor:
        """The weighted sum, a scalar; computes the gradients as well."""
        num_queries, width = len(query_QV), vectors_CD.shape[1]
        block = max(8, BLOCK_SCORES // len(vectors_CD))
        starts = torch.arange(0, num_queries + block, block, device=past.query_M.device)
        bounds = torch.searchsorted(past.query_M, starts).tolist()
        grad_query_QV, grad_vectors_CD = torch.empty_like(query_QV), torch.zeros_like(vectors_CD)
        grad_repeat_M, total = torch.empty_like(repeat_M), query_QV.new_zeros((), dtype=torch.float64)
        for number, start in enumerate(range(0, num_queries, block)):
            rows, mine = slice(start, start + block), slice(bounds[number], bounds[number + 1])
            query_SV, weight_S1 = query_QV[rows], weight_Q[rows, None]
            popularity_PSC = candidates.popularity_PTC.index_select(1, candidates.day_Q[rows])
            scores_SC = query_SV[:, :width] @ vectors_CD.T
            for p, popularity_SC in enumerate(popularity_PSC):
                scores_SC.addcmul_(query_SV[:, width + p, None], popularity_SC)
            scores_SC += candidates.bias_BC.index_select(0, candidates.window_Q[rows])
            pair_places = past.query_M[mine] - start, past.column_M[mine]
            scores_SC.index_put_(pair_places, repeat_M[mine], accumulate=True)
            highest_S1 = scores_SC.amax(1, keepdim=True)
            weights_SC = scores_SC.sub_(highest_S1).exp_()
            sum_S1 = weights_SC.sum(1, keepdim=True)
            total += (weight_S1 * (sum_S1.log() + highest_S1)).sum()
            weights_SC *= weight_S1 / sum_S1  # d loss / d score
            grad_repeat_M[mine] = weights_SC[pair_places]
            torch.mm(weights_SC, vectors_CD, out=grad_query_QV[rows, :width])
            for p, popularity_SC in enumerate(popularity_PSC):
                grad_query_QV[rows, width + p] = torch.linalg.vecdot(weights_SC, popularity_SC)
            grad_vectors_CD.addmm_(weights_SC.T, query_SV[:, :width])
        ctx.save_for_backward(grad_query_QV, grad_vectors_CD, grad_repeat_M)
        return total.to(query_QV.dtype)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the forward pass, times that of the sum."""
        query_QV, vectors_CD, repeat_M = ctx.saved_tensors
        return query_QV * grad[0], vectors_CD * grad[0], repeat_M * grad[0], None, None, None


class TrainedLogPartitionTriton(torch.autograd.Function):
    """On a GPU, in single precision."""

    @staticmethod
    def forward(
        ctx: Any,
        query_QV: Tensor,
        vectors_CD: Tensor,
        repeat_M: Tensor,
        past: PastPairs,
        weight_Q: Tensor,
        candidates: TrainedCandidates,
    ) -> Tensor:
        """The weighted sum, a scalar."""
        queries = Queries(query_QV, candidates.day_Q, candidates.window_Q)
        items = ItemVectors(vectors_CD, aligned(candidates.popularity_PTC))
        bias_BC = aligned(candidates.bias_BC.float())
        extra_M = repeat_M + bias_BC[candidates.window_Q[past.query_M], past.column_M]
        pairs, score_M = scan_pairs(queries, items, past.query_M, past.column_M, extra_M)
        state = merge(pairs, scan_span(queries, items, bias_BC, past.query_M, past.column_M))
        probability_M = state.probability(past.query_M, score_M)
        ctx.save_for_backward(state.mean_QV, probability_M, weight_Q, state.highest_Q, state.total_Q, score_M)
        ctx.scanned = queries, items, bias_BC, past
        return (weight_Q.double() * state.log_partition_Q).sum().to(query_QV.dtype)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, ...]:
        """Scales the gradients of queries and repeat scores; computes those of candidates."""
        mean_QV, probability_M, weight_Q, highest_Q, total_Q, score_M = ctx.saved_tensors
        queries, items, bias_BC, past = ctx.scanned
        weight_Q = weight_Q * grad[0]
        grad_vectors_CD = candidate_gradient(queries, items, bias_BC, past, score_M, finite(highest_Q), weight_Q / total_Q)
        grad_repeat_M = weight_Q[past.query_M] * probability_M
        return weight_Q[:, None] * mean_QV, grad_vectors_CD, grad_repeat_M, None, None, None


@jit
def candidate_gradient_kernel(  # type: ignore[no-untyped-def]
    query_ptr, rounded_ptr, day_ptr, window_ptr, share_ptr, highest_ptr, vectors_ptr, popularity_ptr, bias_ptr, bound_ptr,
    pair_query_ptr, pair_score_ptr, grad_ptr, num_queries, num_candidates, num_columns, stride_p, stride_t, stride_n,
    D: tl.constexpr, P: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_C: tl.constexpr,
    BITS: tl.constexpr, PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """Program c: sum over queries of share * 2^(score - highest) * query, for a block of candidates.

    `rounded_ptr` holds the queries without popularity, in the type of the candidates.
    """
    item_type = vectors_ptr.dtype.element_ty
    at_D = tl.arange(0, BLOCK_D)
    column_C = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    real_C = column_C < num_candidates
    held_C = column_C < num_columns
    at_CD = column_C[:, None] * D + at_D[None, :]
    real_CD = real_C[:, None] & (at_D < D)[None, :]
    item_CD = tl.load(vectors_ptr + at_CD, mask=real_CD, other=0.0)
    pair_C = tl.load(bound_ptr + column_C, mask=real_C, other=0)
    end_C = tl.load(bound_ptr + column_C + 1, mask=real_C, other=0)
    next_C = tl.load(pair_query_ptr + pair_C, mask=pair_C < end_C, other=num_queries)
    grad_CD = tl.zeros([BLOCK_C, BLOCK_D], tl.float32)
    for start in range(0, num_queries, BLOCK_Q):
        query_B = start + tl.arange(0, BLOCK_Q)
        real_B = query_B < num_queries
        at_BD = query_B[:, None] * D + at_D[None, :]
        query_BD = tl.load(rounded_ptr + at_BD, mask=real_B[:, None] & (at_D < D)[None, :], other=0.0)
        day_B = tl.load(day_ptr + query_B, mask=real_B, other=0)
        window_B = tl.load(window_ptr + query_B, mask=real_B, other=0)
        score_BC = tl.dot(query_BD, tl.trans(item_CD), input_precision=PRECISION)
        beside_BC = tl.zeros([BLOCK_Q, BLOCK_C], tl.float32)
        near_BC = popularity_ptr + (day_B * stride_t)[:, None] + (column_C * stride_n)[None, :]
        for p in tl.static_range(P):
            popularity_BC = tl.load(near_BC + p * stride_p, mask=held_C[None, :], other=0.0).to(tl.float32)
            query_B1 = tl.load(query_ptr + query_B * (D + P) + D + p, mask=real_B, other=0.0)[:, None]
            beside_BC += query_B1 * popularity_BC
        beside_BC += tl.load(bias_ptr + window_B[:, None] * num_columns + column_C[None, :], mask=held_C[None, :], other=0.0)
        highest_B = tl.load(highest_ptr + query_B, mask=real_B, other=0.0)
        score_BC = tl.fma(score_BC + beside_BC, BITS, -highest_B[:, None])
        end = tl.minimum(start + BLOCK_Q, num_queries)
        if tl.min(next_C, 0) < end:  # without this test, the inner loop would keep loads from being issued ahead
            while tl.min(next_C, 0) < end:
                paired_C = tl.load(pair_score_ptr + pair_C, mask=pair_C < end_C, other=0.0)
                paired_BC = paired_C[None, :] - highest_B[:, None]
                score_BC = tl.where(query_B[:, None] == next_C[None, :], paired_BC, score_BC)
                pair_C += (next_C < end).to(pair_C.dtype)
                next_C = tl.load(pair_query_ptr + pair_C, mask=pair_C < end_C, other=num_queries)
        share_B = tl.load(share_ptr + query_B, mask=real_B, other=0.0)
        weight_BC = tl.exp2(score_BC) * share_B[:, None]
        grad_CD = tl.dot(tl.trans(weight_BC.to(item_type)), query_BD, grad_CD, input_precision=PRECISION)
    tl.store(grad_ptr + at_CD, grad_CD, mask=real_CD)


def candidate_gradient(
    queries: Queries,
    items: ItemVectors,
    bias_BC: Tensor,
    past: PastPairs,
    score_M: Tensor,
    highest_Q: Tensor,
    share_Q: Tensor,
) -> Tensor:
    """sum_q share_q 2^(score_qc - highest_q) query_q for every candidate, [C, D].

    The scores of pairs and the highest scores are in bits. A share is a weight over the sum of 2^(score - highest). The highest
    is kept apart from the sum, so that equal scores give equal probabilities here and in the forward pass, however large.
    """
    num_queries, (num_candidates, width) = len(queries.vectors_QV), items.vectors_ND.shape
    line = "candidate_gradient_float32" if items.vectors_ND.dtype == torch.float32 else "candidate_gradient"
    config = configuration(line, current_target())
    order_M = (past.column_M * num_queries + past.query_M).argsort()
    columns_C = torch.arange(num_candidates + 1, device=share_Q.device)
    scale = share_Q.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)  # a share is too small for half precision
    grad_CD = torch.empty_like(items.vectors_ND, dtype=torch.float32)
    candidate_gradient_kernel[(-(-num_candidates // config["BLOCK_C"]),)](
        queries.vectors_QV.float().contiguous(),
        queries.vectors_QV[:, :width].to(items.vectors_ND.dtype).contiguous(),
        queries.day_Q,
        queries.window_Q,
        share_Q.float() / scale,
        highest_Q,
        items.vectors_ND.contiguous(),
        items.popularity_PTN,
        bias_BC,
        torch.searchsorted(past.column_M[order_M], columns_C),
        past.query_M[order_M],
        score_M[order_M],
        grad_CD,
        num_queries,
        num_candidates,
        num_columns(items),
        *items.popularity_PTN.stride(),
        **item_shape(items),
        **config,
        BITS=BITS,
        PRECISION=precision(current_target()),
    )
    return (grad_CD * scale).to(items.vectors_ND.dtype)
