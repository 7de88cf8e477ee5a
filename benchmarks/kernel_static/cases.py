"""The cases that are compiled for every target: calls of the launchers with shapes and types of serving and training.

The compiled code depends on types, on whether a size is 1 or a multiple of 16, and on decisions of the host code by size. So
sizes are realistic where the host decides by them, and small elsewhere. Tensors are zeros, which take no memory until written.

N: items, D: width, P: popularity dimensions, Q: queries, K: candidates, T: events, E: head width
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.kernel_static.sizes import default_config
from service.kernels.catalogue import Catalogue
from service.kernels.event_input import event_input_triton
from service.kernels.item_rows import ItemRows
from service.kernels.past_scores import past_scores_triton
from service.kernels.queries import queries_triton
from service.kernels.query_input import query_input_triton
from service.kernels.selection import highest_triton
from service.kernels.topk import top_k_triton
from training.kernels.candidates import Certain, ItemVectors, Pool, WholeCatalogue, aligned
from training.kernels.frozen_softmax import frozen_softmax_triton
from training.kernels.trained_softmax import PastPairs, TrainedCandidates, TrainedLogPartitionTriton
from twotower.data.item_statistics import NUM_ACTIVITY_FEATURES, NUM_PAST_FEATURES
from twotower.kernels.gather_pool import gather_pool_triton
from twotower.kernels.linear_norm import linear_add_norm_triton
from twotower.kernels.linear_swiglu import linear_swiglu_triton
from twotower.kernels.packed_attention import Packing, packed_attention_triton
from twotower.kernels.paged_attention import paged_attention_triton
from twotower.kernels.paged_projection import paged_projection_triton
from twotower.kernels.rms_norm import add_rms_norm_triton, rms_norm_triton
from twotower.kernels.rotary import rotate_triton
from twotower.kernels.swiglu import swiglu_triton
from twotower.model.contextualizer import Contextualizer

CPU = torch.device("cpu")
NUM_ITEMS = 1_000_448  # a million, padded to whole tiles
BRAIN, HALF = torch.bfloat16, torch.float16


def top_k(num_queries: int, tail: int, *, coded: bool = False, filtered: bool = False) -> object:
    """A search of a million rows that are 128 wide, plus `tail` columns."""
    rows_PV = torch.zeros(NUM_ITEMS, 128 + tail, dtype=HALF)
    codes_PV, numbers_P = torch.zeros(rows_PV.shape, dtype=torch.int8), torch.zeros(NUM_ITEMS)
    catalogue = Catalogue(rows_PV, rows_PV, None, None, num_rows=1_000_000, head=128, max_norm=1.0, group=32)
    if coded:
        catalogue = replace(catalogue, codes_PV=codes_PV, scale_P=numbers_P, residual_P=numbers_P)
    allowed_W = torch.zeros(NUM_ITEMS // 32, dtype=torch.int32) if filtered else None
    excluded_QX = torch.zeros(num_queries, 256, dtype=torch.int32) if filtered else None
    return top_k_triton(torch.zeros(num_queries, 128 + tail), catalogue, 100, allowed_W, excluded_QX)


def selection(num_spans: int) -> object:
    """The highest bounds of a million rows in groups of 16, in so many spans of groups."""
    return highest_triton(torch.zeros(32, NUM_ITEMS // 16), 256, torch.zeros(32, num_spans, dtype=torch.int32))


def frozen_softmax(dtype: torch.dtype, num_popularity: int = 2, *, pooled: bool = False) -> object:
    """Stage 2: queries of 64 windows of 64 events, over the whole catalogue or a pool. Numbers of items are odd on purpose."""
    num_queries, num_items, days = 4096, 8191, 128
    catalogue = ItemVectors(torch.zeros(num_items, 128, dtype=dtype), aligned(torch.zeros(num_popularity, days, num_items)))
    query_QV, query_M = torch.zeros(num_queries, 128 + num_popularity), torch.arange(num_queries)
    certain = Certain(query_M, query_M)
    day_Q = torch.zeros(num_queries, dtype=torch.int64)
    candidates = Pool(torch.arange(4095), torch.zeros(4095)) if pooled else WholeCatalogue(num_items)
    return frozen_softmax_triton(query_QV, torch.zeros(num_queries), certain, day_Q, catalogue, candidates)


def trained_softmax(dtype: torch.dtype) -> object:
    """Stage 1, forward and backward."""
    num_queries, num_candidates, windows, days = 4096, 8191, 64, 128
    query_QV = torch.zeros(num_queries, 130, requires_grad=True)
    vectors_CD = torch.zeros(num_candidates, 128, dtype=dtype, requires_grad=True)
    window_Q = torch.arange(num_queries) // (num_queries // windows)
    bias_BC = torch.zeros(windows, num_candidates)
    popularity_PTC, day_Q = torch.zeros(2, days, num_candidates), torch.zeros(num_queries, dtype=torch.int64)
    candidates = TrainedCandidates(vectors_CD.detach(), popularity_PTC, day_Q, bias_BC, window_Q)
    query_M = torch.arange(num_queries)
    past = PastPairs(query_M, query_M, torch.zeros(num_queries))
    weight_Q = torch.ones(num_queries)
    total = TrainedLogPartitionTriton.apply(query_QV, vectors_CD, past.repeat_M, past, weight_Q, candidates)  # type: ignore[no-untyped-call]
    total.backward()
    return total


def tables(width: int) -> tuple[Tensor, Tensor]:
    """Tables of cosines and sines for the rotation."""
    return torch.zeros(320, width // 2), torch.zeros(320, width // 2)


def attention(width: int, num_heads: int, num_kv_heads: int) -> object:
    """Attention over four histories of 256 events."""
    packing = Packing.whole([256] * 4, CPU)
    q_THE, k_TGE, v_TGE = (torch.zeros(1024, heads, width, dtype=BRAIN) for heads in (num_heads, num_kv_heads, num_kv_heads))
    return packed_attention_triton(q_THE, k_TGE, v_TGE, *tables(width), packing)


def paged(width: int, num_heads: int, num_kv_heads: int, num_new: int) -> object:
    """Attention of some new events of each of 8 histories, in pages of 64 events. Queries lie beside keys and values."""
    k_NGCE, v_NGCE = (torch.zeros(64, num_kv_heads, 64, width, dtype=BRAIN) for _ in range(2))
    pages_BM, numbers_F = torch.zeros(8, 4, dtype=torch.int32), torch.zeros(9, dtype=torch.int32)
    q_THE = torch.zeros(8 * num_new, num_heads + 2 * num_kv_heads, width, dtype=BRAIN)[:, :num_heads]
    return paged_attention_triton(q_THE, k_NGCE, v_NGCE, pages_BM, numbers_F[:8], numbers_F, *tables(width), num_new)


def projection(width: int, num_events: int) -> object:
    """Queries, keys and values of some new events of the default model, in pages of 64 events."""
    k_NGCE, v_NGCE = (torch.zeros(64, 2, 64, width, dtype=BRAIN) for _ in range(2))
    x_TD, weight_UD = torch.zeros(num_events, 4 * width, dtype=BRAIN), torch.zeros(8 * width, 4 * width, dtype=BRAIN)
    numbers_T = torch.zeros(num_events, dtype=torch.int32)
    return paged_projection_triton(x_TD, weight_UD, k_NGCE, v_NGCE, numbers_T, numbers_T, *tables(width))


def feed_forward(width: int, ffn_width: int, num_events: int) -> object:
    """Both halves of a feed-forward layer, the second with the residual stream and its norm."""
    x_TD, gate_up_ID = torch.zeros(num_events, width), torch.zeros(2 * ffn_width, width, dtype=BRAIN)
    fed_TF = linear_swiglu_triton(x_TD.to(BRAIN), gate_up_ID)
    return linear_add_norm_triton(x_TD, fed_TF, torch.zeros(width, ffn_width, dtype=BRAIN), torch.zeros(width), BRAIN)


def before_and_after_the_layers(num_added: int) -> object:
    """What serving computes of 32 requests beside the layers of the default model, with items added since the release or none."""
    config, num, num_past = default_config(), 33, 2048
    model = Contextualizer(config).requires_grad_(False)
    added_AV = torch.zeros(num_added, 129) if num_added else None
    items, numbers = ItemRows(torch.zeros(1024, 144)[:, :129], added_AV), torch.zeros(num_past, dtype=torch.int32)
    slots_TS = torch.zeros(num, 4, dtype=torch.int32)
    event_input_triton(
        model, items, numbers[:num], slots_TS, torch.zeros(num, 4), torch.zeros(num, config.context_input), normed_as=BRAIN
    )
    past = (numbers, numbers[: num + 1], torch.zeros(num_past, NUM_PAST_FEATURES))
    activity_QA, wanted_QS = torch.zeros(num, NUM_ACTIVITY_FEATURES), torch.zeros(num, 2, dtype=torch.int32)
    query_input_QX = query_input_triton(
        model, items, torch.zeros(num, config.width), numbers[:num], torch.zeros(num, config.request_time_width), activity_QA,
        wanted_QS, torch.zeros(num, 2), *past,
    )  # fmt: skip
    queries_QZ = torch.zeros(num, 144)
    queries_triton(model, query_input_QX, queries_QZ)
    past_scores_triton(model, items, queries_QZ, query_input_QX, activity_QA, *past, torch.zeros(num_past))
    return queries_QZ


def norm(width: int, *, added: bool) -> object:
    """Normalisation of the model's rows, with or without adding to the residual stream."""
    x_TD, weight_D = torch.zeros(1024, width, dtype=BRAIN), torch.zeros(width)
    return add_rms_norm_triton(x_TD, x_TD.clone(), weight_D) if added else rms_norm_triton(x_TD, weight_D)


def mixed_norm(width: int) -> object:
    """The same in serving: the residual stream is float32, what is added and its norm are bfloat16."""
    x_TD, weight_D = torch.zeros(1024, width), torch.zeros(width)
    return add_rms_norm_triton(x_TD, x_TD.to(BRAIN), weight_D, BRAIN)


def pool(width: int, num_fields: int) -> object:
    """The embedding of hashed tokens, with two slots for each field."""
    slots_NS = torch.zeros(1024, 2 * num_fields, dtype=torch.int32)
    return gather_pool_triton(torch.zeros(4096, width), slots_NS, torch.zeros(slots_NS.shape), [2] * num_fields)


CASES: dict[str, Callable[[], object]] = {
    "top-k 128, 1 query": partial(top_k, 1, 0),
    "top-k 128+2, 1 query, filtered": partial(top_k, 1, 16, filtered=True),
    "top-k 128+2, 64 queries, filtered": partial(top_k, 64, 16, filtered=True),
    "top-k int8 128, 1 query": partial(top_k, 1, 0, coded=True),
    "top-k int8 128+2, 1 query, filtered": partial(top_k, 1, 16, coded=True, filtered=True),
    "top-k int8 128+2, 64 queries, filtered": partial(top_k, 64, 16, coded=True, filtered=True),
    "selection of 16384": partial(selection, 1024),
    "frozen softmax bf16 128": partial(frozen_softmax, BRAIN, 0),
    "frozen softmax bf16 128+2": partial(frozen_softmax, BRAIN),
    "frozen softmax bf16 128+2, pool": partial(frozen_softmax, BRAIN, pooled=True),
    "frozen softmax fp32 128+2": partial(frozen_softmax, torch.float32),
    "trained softmax bf16 128+2": partial(trained_softmax, BRAIN),
    "trained softmax fp32 128+2": partial(trained_softmax, torch.float32),
    "attention 64, 8 heads": partial(attention, 64, 8, 8),
    "attention 32, 8 heads share 2": partial(attention, 32, 8, 2),
    "attention 128, 8 heads share 2": partial(attention, 128, 8, 2),
    "paged 64, 8 heads, one new": partial(paged, 64, 8, 8, 1),
    "paged 64, 8 heads share 2, one new": partial(paged, 64, 8, 2, 1),
    "paged 32, 4 heads share 2, one new": partial(paged, 32, 4, 2, 1),
    "paged 32, 4 heads share 2": partial(paged, 32, 4, 2, 64),
    "paged 64, 8 heads share 2": partial(paged, 64, 8, 2, 64),
    "projection 32, 33 events": partial(projection, 32, 33),
    "projection 32, 4096 events": partial(projection, 32, 4096),
    "projection 64, 4096 events": partial(projection, 64, 4096),
    "feed-forward 128, 33 events": partial(feed_forward, 128, 344, 33),
    "feed-forward 128, 4096 events": partial(feed_forward, 128, 344, 4096),
    "feed-forward 512, 4096 events": partial(feed_forward, 512, 1376, 4096),
    "requests 128": partial(before_and_after_the_layers, 0),
    "requests 128, added items": partial(before_and_after_the_layers, 64),
    "norm 256": partial(norm, 256, added=False),
    "added norm 512": partial(norm, 512, added=True),
    "added norm 128, float32 stream": partial(mixed_norm, 128),
    "rotation 64": lambda: rotate_triton(
        torch.zeros(1024, 8, 64, dtype=BRAIN), *tables(64), torch.zeros(1024, dtype=torch.int64)
    ),
    "gated unit 1376": lambda: swiglu_triton(torch.zeros(1024, 2752, dtype=BRAIN)),
    "bag 32, 20 fields": partial(pool, 32, 20),
    "bag 128, 1 field": partial(pool, 128, 1),
}
