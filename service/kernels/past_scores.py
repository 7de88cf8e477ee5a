"""Scores of past items: the product of query and vector, and the repeat score, by an MLP over what is known of each item.

Q: requests, X: width of their input, A: activity features, M: past items of all requests, F: Q + 1, G: features of a past item,
D: width, Z: width of a query, P: popularity dimensions, N: width of what is read of an item, U: width of
the MLP, K: rank of the interaction
"""

from functools import partial

from torch import Tensor, nn

from service.kernels.item_rows import ItemRows, load_vectors
from service.kernels.query_input import norms, past_of, product
from twotower.kernels.configurations import configuration, current_target
from twotower.kernels.dispatch import jit, run, tl, triton
from twotower.kernels.rms_norm import EPSILON
from twotower.model.contextualizer import Contextualizer

_PROGRAMS = 4  # of a request, which share its past items


def past_scores(
    model: Contextualizer,
    items: ItemRows,
    queries_QZ: Tensor,
    query_input_QX: Tensor,
    activity_QA: Tensor,
    past_rows_M: Tensor,
    past_offsets_F: Tensor,
    past_features_MG: Tensor,
    out_M: Tensor,
) -> None:
    """Write the score of each past item: its product with the query, and `Contextualizer.repeat_scores`.

    Past items are those of `query_input`. What is written of the items after the last offset means nothing.
    """
    past = (past_rows_M, past_offsets_F, past_features_MG)
    kernel, reference = (partial(impl, model, items) for impl in (past_scores_triton, past_scores_reference))
    run(kernel, reference, queries_QZ, query_input_QX, activity_QA, *past, out_M)


def past_scores_reference(
    model: Contextualizer,
    items: ItemRows,
    queries_QZ: Tensor,
    query_input_QX: Tensor,
    activity_QA: Tensor,
    past_rows_M: Tensor,
    past_offsets_F: Tensor,
    past_features_MG: Tensor,
    out_M: Tensor,
) -> None:
    """Torch reference of `past_scores`: the model's."""
    past, vectors = past_of(model, items, activity_QA, past_rows_M, past_offsets_F, past_features_MG)
    vectors_MV = items.take(past_rows_M)
    dots_M = (queries_QZ[past.request_M, : vectors_MV.shape[1]] * vectors_MV).sum(-1)
    out_M[:] = dots_M + model.repeat_scores(query_input_QX, past, vectors)


def past_scores_triton(
    model: Contextualizer,
    items: ItemRows,
    queries_QZ: Tensor,
    query_input_QX: Tensor,
    activity_QA: Tensor,
    past_rows_M: Tensor,
    past_offsets_F: Tensor,
    past_features_MG: Tensor,
    out_M: Tensor,
    options: dict[str, int] | None = None,
) -> None:
    """Triton implementation of `past_scores`. Some programs share the past items of one request."""
    for tensor in (queries_QZ, query_input_QX, activity_QA, past_features_MG):
        assert tensor.is_contiguous()
    norm, item = model.repeat_item
    layers = [layer for layer in model.repeat_mlp if isinstance(layer, nn.Linear)]
    assert isinstance(norm, nn.RMSNorm)
    assert isinstance(item, nn.Linear)
    width, vector_width = model.width, items.built_NV.shape[1]
    rank, units, read = model.repeat_key.out_features, layers[1].in_features, item.out_features
    options = options or configuration("past_scores", current_target())
    past_scores_kernel[(len(queries_QZ), _PROGRAMS)](
        queries_QZ, query_input_QX, activity_QA, *items.pointers, past_rows_M,
        past_offsets_F, past_features_MG, norm.weight, item.weight, item.bias,
        layers[0].weight, layers[0].bias, layers[1].weight, layers[1].bias, layers[2].weight, layers[2].bias,
        model.repeat_query.weight, model.repeat_query.bias, model.repeat_key.weight, model.repeat_key.bias, out_M, EPSILON,
        D=width, Z=queries_QZ.shape[1], X=query_input_QX.shape[1], A=activity_QA.shape[1],
        G=past_features_MG.shape[1], P=vector_width - width, N=read, U=units, K=rank, PROGRAMS=_PROGRAMS,
        BLOCK_D=max(triton.next_power_of_2(width), 16), BLOCK_A=triton.next_power_of_2(activity_QA.shape[1]),
        BLOCK_X=triton.next_power_of_2(query_input_QX.shape[1]), BLOCK_N=max(triton.next_power_of_2(read), 16),
        BLOCK_U=max(triton.next_power_of_2(units), 16), BLOCK_K=triton.next_power_of_2(rank), **options,
    )  # fmt: skip


@jit
def past_scores_kernel(  # type: ignore[no-untyped-def]
    queries_ptr, input_ptr, activity_ptr, built_ptr, added_ptr, num_built, built_stride, added_stride, rows_ptr, offsets_ptr,
    features_ptr, norm_ptr, item_ptr, item_bias_ptr, first_ptr, first_bias_ptr, second_ptr, second_bias_ptr, third_ptr,
    third_bias_ptr, rank_query_ptr, rank_query_bias_ptr, rank_key_ptr, rank_key_bias_ptr, out_ptr, epsilon,
    D: tl.constexpr, Z: tl.constexpr, X: tl.constexpr, A: tl.constexpr, G: tl.constexpr, P: tl.constexpr,
    N: tl.constexpr, U: tl.constexpr, K: tl.constexpr, PROGRAMS: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_A: tl.constexpr,
    BLOCK_X: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_M: tl.constexpr,
) -> None:  # fmt: skip
    """One program scores every PROGRAMS-th block of the past items of one request."""
    request = tl.program_id(0).to(tl.int64)
    first, last = tl.load(offsets_ptr + request), tl.load(offsets_ptr + request + 1)
    if first + tl.program_id(1) * BLOCK_M >= last:
        return
    column, unit, read, rank = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_U), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    is_column, is_unit, is_read, is_rank = column < D, unit < U, read < N, rank < K
    number, action = tl.arange(0, BLOCK_X), tl.arange(0, BLOCK_A)
    WIDTH: tl.constexpr = G + A + P + N  # of what the MLP reads: features, activity, popularity, item
    query = tl.load(queries_ptr + request * Z + column, mask=is_column, other=0.0)
    weight = tl.load(norm_ptr + column, mask=is_column, other=0.0)
    numbers = tl.load(input_ptr + request * X + number, mask=number < X, other=0.0)
    wanted = product(rank_query_ptr, rank, is_rank, number, number < X, numbers, X)
    wanted += tl.load(rank_query_bias_ptr + rank, mask=is_rank, other=0.0)
    activity = tl.load(activity_ptr + request * A + action, mask=action < A, other=0.0)
    of_request = product(first_ptr + G, unit, is_unit, action, action < A, activity, WIDTH)
    of_request += tl.load(first_bias_ptr + unit, mask=is_unit, other=0.0)
    to_read = tl.load(item_ptr + read[None] * D + column[:, None], mask=is_read[None] & is_column[:, None], other=0.0)
    of_item = first_ptr + G + A + P + unit[None] * WIDTH + read[:, None]
    from_read = tl.load(of_item, mask=is_read[:, None] & is_unit[None], other=0.0)
    to_second = tl.load(second_ptr + unit[None] * U + unit[:, None], mask=is_unit[:, None] & is_unit[None], other=0.0)
    for start in range(first + tl.program_id(1) * BLOCK_M, last, PROGRAMS * BLOCK_M):
        item = start + tl.arange(0, BLOCK_M)
        is_item = item < last
        row = tl.load(rows_ptr + item, mask=is_item, other=0)
        vectors = load_vectors(
            built_ptr, added_ptr, num_built, built_stride, added_stride, row, column[None], is_item[:, None] & is_column[None]
        )
        score = tl.sum(vectors * query[None], 1) + tl.load(third_bias_ptr)
        normed = norms(
            built_ptr, added_ptr, num_built, built_stride, added_stride, row, column[None], is_item, weight[None], epsilon, D
        )
        seen = tl.dot(normed, to_read, input_precision="ieee") + tl.load(item_bias_ptr + read, mask=is_read, other=0.0)[None]
        units = tl.dot(seen, from_read, input_precision="ieee") + of_request[None]
        for p in tl.static_range(P):
            popularity = tl.sum(
                load_vectors(
                    built_ptr,
                    added_ptr,
                    num_built,
                    built_stride,
                    added_stride,
                    row,
                    tl.full([1, 1], D + p, tl.int32),
                    is_item[:, None],
                ),
                1,
            )
            score += popularity * tl.load(queries_ptr + request * Z + D + p)
            units += (1.5 + popularity / 5)[:, None] * tl.load(first_ptr + G + A + p + unit * WIDTH, mask=is_unit, other=0.0)[
                None
            ]
        keys = tl.zeros([BLOCK_M, BLOCK_K], tl.float32) + tl.load(rank_key_bias_ptr + rank, mask=is_rank, other=0.0)[None]
        for g in tl.static_range(G):
            feature = tl.load(features_ptr + item * G + g, mask=is_item, other=0.0)[:, None]
            units += feature * tl.load(first_ptr + g + unit * WIDTH, mask=is_unit, other=0.0)[None]
            keys += feature * tl.load(rank_key_ptr + rank * G + g, mask=is_rank, other=0.0)[None]
        score += tl.sum(keys * wanted[None], 1)
        units = tl.dot(tl.maximum(units, 0.0), to_second, input_precision="ieee")
        units = tl.maximum(units + tl.load(second_bias_ptr + unit, mask=is_unit, other=0.0)[None], 0.0)
        score += tl.sum(units * tl.load(third_ptr + unit, mask=is_unit, other=0.0)[None], 1)
        tl.store(out_ptr + item, score, mask=is_item)
