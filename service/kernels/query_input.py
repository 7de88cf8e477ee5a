"""What the query head reads of each request: hidden state, wanted event type, taste for past items, time and activity.

A taste is attention over the past items of a request. Keys and values are products of the items' norms, so the query is turned
into the space of the norms and the mean of the norms is turned into a value. No key and no value is made of any past item.

Q: requests, D: width, S: hash slots, R: time features, A: activity features, X: D + R + A, M: past items of all
requests, F: Q + 1, G: features of a past item, H: heads, E: key width of a head
"""

from functools import partial

import torch
from torch import Tensor

from service.kernels.item_rows import ItemRows, load_vectors
from twotower.data.past_items import PastItems, PastVectors
from twotower.kernels.configurations import configuration, current_target
from twotower.kernels.dispatch import jit, run, tl, triton
from twotower.kernels.rms_norm import EPSILON
from twotower.model.contextualizer import Contextualizer


def query_input(
    model: Contextualizer,
    items: ItemRows,
    hidden_QD: Tensor,
    is_empty_Q: Tensor,
    times_QR: Tensor,
    activity_QA: Tensor,
    wanted_QS: Tensor,
    wanted_weights_QS: Tensor,
    past_rows_M: Tensor,
    past_offsets_F: Tensor,
    past_features_MG: Tensor,
) -> Tensor:
    """`Contextualizer.query_input`, [Q, X]. Request q has the past items from past_offsets_F[q] to past_offsets_F[q + 1].

    Past items after the last offset are nobody's. The hidden state of a request whose history is empty is not used.
    """
    tensors = (hidden_QD, is_empty_Q, times_QR, activity_QA, wanted_QS, wanted_weights_QS)
    past = (past_rows_M, past_offsets_F, past_features_MG)
    kernel, reference = (partial(impl, model, items) for impl in (query_input_triton, query_input_reference))
    query_input_QX: Tensor = run(kernel, reference, *tensors, *past)
    return query_input_QX


def query_input_reference(
    model: Contextualizer,
    items: ItemRows,
    hidden_QD: Tensor,
    is_empty_Q: Tensor,
    times_QR: Tensor,
    activity_QA: Tensor,
    wanted_QS: Tensor,
    wanted_weights_QS: Tensor,
    past_rows_M: Tensor,
    past_offsets_F: Tensor,
    past_features_MG: Tensor,
) -> Tensor:
    """Torch reference of `query_input`: the model's."""
    past, vectors = past_of(model, items, activity_QA, past_rows_M, past_offsets_F, past_features_MG)
    return model.query_input(hidden_QD, is_empty_Q != 0, times_QR, wanted_QS, wanted_weights_QS, past, vectors)


def past_of(
    model: Contextualizer,
    items: ItemRows,
    activity_QA: Tensor,
    past_rows_M: Tensor,
    past_offsets_F: Tensor,
    past_features_MG: Tensor,
) -> tuple[PastItems, PastVectors]:
    """Past items in the form that the model reads. Those of nobody become the last request's, who must be nobody too."""
    item_M = torch.arange(len(past_rows_M), device=past_rows_M.device)
    request_M = (torch.searchsorted(past_offsets_F, item_M, right=True) - 1).clamp(max=len(activity_QA) - 1)
    vectors_MV = items.take(past_rows_M)
    past = PastItems(past_rows_M, request_M, past_features_MG, activity_QA)
    return past, PastVectors(vectors_MV[:, : model.width], item_M, vectors_MV[:, model.width :])


def query_input_triton(
    model: Contextualizer,
    items: ItemRows,
    hidden_QD: Tensor,
    is_empty_Q: Tensor,
    times_QR: Tensor,
    activity_QA: Tensor,
    wanted_QS: Tensor,
    wanted_weights_QS: Tensor,
    past_rows_M: Tensor,
    past_offsets_F: Tensor,
    past_features_MG: Tensor,
    options: dict[str, int] | None = None,
) -> Tensor:
    """Triton implementation of `query_input`. One program makes all of one request, because batches are small."""
    (num_requests, width), beside = hidden_QD.shape, times_QR.shape[1] + activity_QA.shape[1]
    for tensor in (hidden_QD, times_QR, activity_QA, wanted_QS, wanted_weights_QS, past_features_MG):
        assert tensor.is_contiguous()
    out_QX = hidden_QD.new_empty(num_requests, width + beside)
    attention = model.past_attention
    weights = (
        [None] * 8
        if attention is None
        else [
            attention.norm.weight, attention.query.weight, attention.query.bias, attention.key.weight,
            attention.bias.weight, attention.bias.bias, attention.value.weight, attention.out.weight,
        ]
    )  # fmt: skip
    num_heads, key_width = (1, 1) if attention is None else (attention.num_heads, attention.key_width)
    options = options or configuration("query_input", current_target())
    block_d, block_h = triton.next_power_of_2(width), triton.next_power_of_2(num_heads)
    query_input_kernel[(num_requests,)](
        hidden_QD, model.empty_history, is_empty_Q, model.context_table, wanted_QS, wanted_weights_QS, times_QR, activity_QA,
        *items.pointers, past_rows_M, past_offsets_F, past_features_MG, *weights, out_QX,
        EPSILON, key_width**-0.5,
        D=width, S=wanted_QS.shape[1], R=times_QR.shape[1], A=activity_QA.shape[1],
        G=past_features_MG.shape[1], H=num_heads, E=key_width, BLOCK_D=block_d, BLOCK_B=triton.next_power_of_2(beside),
        BLOCK_H=block_h, BLOCK_E=triton.next_power_of_2(key_width), **options,
    )  # fmt: skip
    return out_QX


@jit
def query_input_kernel(  # type: ignore[no-untyped-def]
    hidden_ptr, empty_ptr, is_empty_ptr, table_ptr, wanted_ptr, wanted_weights_ptr, times_ptr, activity_ptr,
    built_ptr, added_ptr, num_built, built_stride, added_stride, rows_ptr, offsets_ptr, features_ptr,
    norm_ptr, query_ptr, query_bias_ptr, key_ptr, bias_ptr, bias_bias_ptr, value_ptr, mix_ptr, out_ptr, epsilon, scale,
    D: tl.constexpr, S: tl.constexpr, R: tl.constexpr, A: tl.constexpr, G: tl.constexpr, H: tl.constexpr,
    E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
) -> None:  # fmt: skip
    """One program makes the input of one request."""
    request = tl.program_id(0).to(tl.int64)
    column, place = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_B)
    is_column, is_beside = column < D, place < R + A
    hidden = tl.load(hidden_ptr + request * D + column, mask=is_column, other=0.0)
    empty = tl.load(empty_ptr + column, mask=is_column, other=0.0)
    hidden = tl.where(tl.load(is_empty_ptr + request) != 0, empty, hidden)
    for slot in tl.static_range(S):
        table_row = tl.load(wanted_ptr + request * S + slot).to(tl.int64)
        weight = tl.load(wanted_weights_ptr + request * S + slot)
        hidden += weight * tl.load(table_ptr + table_row * D + column, mask=is_column, other=0.0)
    beside = tl.load(times_ptr + request * R + place, mask=place < R, other=0.0)
    beside += tl.load(activity_ptr + request * A + place - R, mask=(place >= R) & is_beside, other=0.0)
    if norm_ptr is not None:
        looked = tl.zeros([BLOCK_H, BLOCK_D], tl.float32)
        head = tl.arange(0, BLOCK_H)
        for h in range(H):
            key = tl.arange(0, BLOCK_E)
            is_key, key = key < E, h * E + key
            query = product(query_ptr, key, is_key, column, is_column, hidden, D + R + A)
            query += product(query_ptr + D, key, is_key, place, is_beside, beside, D + R + A)
            query += tl.load(query_bias_ptr + key, mask=is_key, other=0.0)
            keys = tl.load(key_ptr + key[:, None] * D + column[None], mask=is_key[:, None] & is_column[None], other=0.0)
            looked = tl.where(head[:, None] == h, tl.sum(keys * query[:, None], 0)[None] * scale, looked)
        first, last = tl.load(offsets_ptr + request), tl.load(offsets_ptr + request + 1)
        mean = mean_of_norms(
            built_ptr, added_ptr, num_built, built_stride, added_stride, rows_ptr, features_ptr, norm_ptr, bias_ptr,
            bias_bias_ptr, looked, first, last, epsilon, D, G, H, BLOCK_D, BLOCK_H, BLOCK_SIZE,
        )  # fmt: skip
        BLOCK_J: tl.constexpr = max(BLOCK_SIZE // BLOCK_D, 1)
        for h in range(H):
            mean_of_head = tl.sum(tl.where(head[:, None] == h, mean, 0.0), 0)
            for start in range(0, D // H, BLOCK_J):
                value = start + tl.arange(0, BLOCK_J)
                is_value, value = value < D // H, h * (D // H) + value
                mixed = product(value_ptr, value, is_value, column, is_column, mean_of_head, D)
                hidden += product(mix_ptr, column, is_column, value, is_value, mixed, D)
    tl.store(out_ptr + request * (D + R + A) + column, hidden, mask=is_column)
    tl.store(out_ptr + request * (D + R + A) + D + place, beside, mask=is_beside)


@jit
def mean_of_norms(  # type: ignore[no-untyped-def]
    built_ptr, added_ptr, num_built, built_stride, added_stride, rows_ptr, features_ptr, norm_ptr, bias_ptr, bias_bias_ptr,
    looked, first, last, epsilon,
    D: tl.constexpr, G: tl.constexpr, H: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_H: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    """What each head attends to of the past items from `first` to `last`: the weighted mean of their norms, 0 without items."""
    BLOCK_M: tl.constexpr = max(2 * BLOCK_SIZE // (BLOCK_D * BLOCK_H), 1)
    column, head = tl.arange(0, BLOCK_D)[None], tl.arange(0, BLOCK_H)
    weight = tl.load(norm_ptr + column, mask=column < D, other=0.0)
    highest = tl.full([BLOCK_H], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_H], tl.float32)
    mixed = tl.zeros([BLOCK_H, BLOCK_D], tl.float32)
    for start in range(first, last, BLOCK_M):
        item = start + tl.arange(0, BLOCK_M)
        is_item = item < last
        row = tl.load(rows_ptr + item, mask=is_item, other=0)
        normed = norms(built_ptr, added_ptr, num_built, built_stride, added_stride, row, column, is_item, weight, epsilon, D)
        logit = tl.sum(normed[:, None, :] * looked[None], 2)
        logit += tl.load(bias_bias_ptr + head, mask=head < H, other=0.0)[None]
        for g in tl.static_range(G):
            feature = tl.load(features_ptr + item * G + g, mask=is_item, other=0.0)
            logit += feature[:, None] * tl.load(bias_ptr + head * G + g, mask=head < H, other=0.0)[None]
        logit = tl.where(is_item[:, None], logit, float("-inf"))
        higher = tl.maximum(highest, tl.max(logit, 0))
        decay, share = tl.exp(highest - higher), tl.exp(logit - higher[None])
        total = total * decay + tl.sum(share, 0)
        mixed = mixed * decay[:, None] + tl.sum(normed[:, None, :] * share[:, :, None], 0)
        highest = higher
    return mixed / tl.where(last > first, total, 1.0)[:, None]


@jit
def norms(  # type: ignore[no-untyped-def]
    built_ptr, added_ptr, num_built, built_stride, added_stride, row, column, is_row, weight, epsilon,
    D: tl.constexpr,
):  # fmt: skip
    """The norms of some items' vectors, as of `rms_norm`."""
    vectors = load_vectors(
        built_ptr, added_ptr, num_built, built_stride, added_stride, row, column, is_row[:, None] & (column < D)
    )
    return vectors * tl.rsqrt(tl.sum(vectors * vectors, 1, keep_dims=True) / D + epsilon) * weight


@jit
def product(  # type: ignore[no-untyped-def]
    weight_ptr, row, is_row, column, is_column, numbers,
    STRIDE: tl.constexpr,
):  # fmt: skip
    """The product of some rows and columns of a matrix and a vector."""
    mask = is_row[:, None] & is_column[None]
    return tl.sum(tl.load(weight_ptr + row[:, None] * STRIDE + column[None], mask=mask, other=0.0) * numbers[None], 1)
