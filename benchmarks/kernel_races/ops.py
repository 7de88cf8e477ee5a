"""The races: our public ops against torch's own implementations and the peers that are installed.

N: items, D: width, Q: queries, K: results or candidates, B: histories, T: events, H: heads, G: key/value heads, E: head width
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from benchmarks.kernel_races.peers import loss_peers, search_peers
from benchmarks.kernel_races.race import Inputs, Race
from service.kernels.catalogue import catalogue_of
from service.kernels.certified import coded_catalogue_of
from service.kernels.topk import top_k
from training.kernels.candidates import Certain, ItemVectors, WholeCatalogue
from training.kernels.frozen_softmax import frozen_softmax
from twotower.kernels.gather_pool import gather_pool
from twotower.kernels.packed_attention import Packing, causal_attention, packed_attention
from twotower.kernels.paged_attention import paged_attention
from twotower.kernels.rms_norm import add_rms_norm, add_rms_norm_reference
from twotower.kernels.rotary import rotate_reference, turn
from twotower.kernels.swiglu import swiglu, swiglu_reference

Scale = Literal["full", "quick", "check", "dry"]
SLICE = 4  # queries or rows that are checked in float64


def races(scale: Scale, device: torch.device) -> Iterator[Race]:
    """All races, smallest shapes first. `check` and `dry` use small shapes only."""
    small = scale in ("check", "dry")
    rows = [4096] if small else [100_000, 1_000_000] if scale == "quick" else [100_000, 1_000_000, 10_000_000]
    for num_rows, width, num_queries, k in product(rows, [128], [1, 32] if small else [1, 32, 256], [100]):
        yield search(num_rows, width, num_queries, k, device, coded=False)
        yield search(num_rows, width, num_queries, k, device, coded=True)
    for num_queries, num_items in [(64, 512)] if small else [(32_768, 100_000), (32_768, 1_000_000)]:
        yield frozen_softmax_race(num_queries, num_items, 128, device)
    for num_histories, width in [(2, 32)] if small else [(1, 64), (32, 64), (256, 64), (256, 128)]:
        yield attention(num_histories, 512 // width if not small else 2, width, device)
    for num_histories, num_kv_heads in [(2, 2)] if small else [(1, 8), (32, 8), (256, 8), (256, 2)]:
        yield decode(num_histories, 8 if not small else 2, num_kv_heads, 64, device)
    for num_rows in [32] if small else [1, 65_536]:
        yield added_norm(num_rows, 512, device)
        yield gated(num_rows, 1376, device)
    yield bag(16 if small else 65_536, 20, 32, device)


def worst(answer: Tensor, truth: Tensor) -> float:
    """The largest difference, relative to the largest absolute value of the truth; NaN if the answer has any."""
    return float((answer.double().cpu() - truth).abs().max() / truth.abs().max().clamp(min=1e-30))


def seeded(seed: int, device: torch.device) -> Callable[..., Tensor]:
    """A maker of random normal tensors. Not zeros, because those would run faster than real data."""
    generator = torch.Generator(device).manual_seed(seed)
    return partial(_normal, generator, device)


def _normal(generator: torch.Generator, device: torch.device, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(dtype)


def search(num_rows: int, width: int, num_queries: int, k: int, device: torch.device, *, coded: bool) -> Race:
    """The k best of all rows. The error is the share of wrong rows, compared with float64."""
    rows_ND = seeded(0, device)(num_rows, width, dtype=torch.float16)
    catalogue = coded_catalogue_of(rows_ND) if coded else catalogue_of(rows_ND)

    def inputs(seed: int) -> Inputs:
        return (seeded(1 + seed, device)(num_queries, width, dtype=torch.float32),)

    def ours(queries_QD: Tensor) -> Tensor:
        return top_k(queries_QD, catalogue, k)[0]

    def error(rows_QK: Tensor, given: Inputs) -> float:
        queries_QD = given[0][:SLICE].double()
        scores_QN = torch.cat([queries_QD @ part_ND.double().T for part_ND in torch.split(rows_ND, 1 << 20)], 1)
        return float((scores_QN.topk(k).indices.sort(1).values != rows_QK[:SLICE].to(device).sort(1).values).double().mean())

    row_bytes = width + 8 if coded else 2 * width
    goals = {(1_000_000, 1, False): 110.0, (1_000_000, 1, True): 70.0}
    return Race(
        op="top-k int8" if coded else "top-k fp16",
        shape=f"{num_rows} x {width}, {num_queries} queries, k {k}",
        num_bytes=float(num_rows * row_bytes),
        num_flop=2.0 * num_rows * width * num_queries,
        inputs=inputs,
        contenders={"ours": ours} | ({} if coded else search_peers(rows_ND, k)),
        error=error,
        tolerance=0.0 if device.type == "cpu" else 0.02,  # for peers that round the queries
        goal_us=goals.get((num_rows, num_queries, coded)),
    )


def frozen_softmax_race(num_queries: int, num_items: int, width: int, device: torch.device) -> Race:
    """Log partitions and their gradients with respect to queries, [Q, 1 + D], over all items."""
    make = seeded(0, device)
    vectors_ND = make(num_items, width) / width**0.5
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    catalogue = ItemVectors(vectors_ND, torch.zeros(0, 1, num_items, device=device))
    day_Q = torch.zeros(num_queries, dtype=torch.int64, device=device)

    def ours(queries_QD: Tensor) -> Tensor:
        state, _ = frozen_softmax(
            queries_QD.to(vectors_ND.dtype if device.type == "cpu" else torch.float32),
            vectors_ND.new_zeros(0, dtype=vectors_ND.dtype if device.type == "cpu" else torch.float32),
            Certain(nothing, nothing),
            day_Q,
            catalogue,
            WholeCatalogue(num_items),
        )
        return torch.cat([state.log_partition_Q[:, None], state.mean_QV], 1)

    def error(answer: Tensor, given: Inputs) -> float:
        scores_QN = given[0][:SLICE].cpu().double() @ vectors_ND.cpu().double().T
        truth = torch.cat([scores_QN.logsumexp(1, keepdim=True), scores_QN.softmax(1) @ vectors_ND.cpu().double()], 1)
        return max(worst(answer[:SLICE, :1], truth[:, :1]), worst(answer[:SLICE, 1:], truth[:, 1:]))

    return Race(
        op="frozen softmax",
        shape=f"{num_queries} queries x {num_items} x {width}",
        num_bytes=2.0 * num_items * width,
        num_flop=4.0 * num_queries * num_items * width,
        inputs=lambda seed: (seeded(1 + seed, device)(num_queries, width, dtype=torch.float32),),
        contenders={"ours": ours, **loss_peers(vectors_ND)},
        error=error,
        tolerance=3e-2,
        goal_us=36_000.0 if num_items == 1_000_000 else None,
    )


def attention(num_histories: int, num_heads: int, width: int, device: torch.device) -> Race:
    """Causal attention over packed histories of 1 to 256 events. Queries are rotated by the op, keys beforehand."""
    lengths = torch.randint(1, 257, (num_histories,), generator=torch.Generator().manual_seed(0)).tolist()
    packing, num_events = Packing.whole(lengths, device), sum(lengths)
    angles_LP = torch.arange(256, device=device)[:, None] * 10_000 ** -(torch.arange(width // 2, device=device) * 2 / width)
    cos_LP, sin_LP = angles_LP.cos(), angles_LP.sin()

    def inputs(seed: int) -> Inputs:
        make = seeded(seed, device)
        return tuple(make(num_events, num_heads, width) for _ in range(3))

    def padded(q_THE: Tensor, k_THE: Tensor, v_THE: Tensor) -> Tensor:
        q_THE = rotate_reference(q_THE, cos_LP, sin_LP, packing.positions_T)
        q_BHTE, k_BHTE, v_BHTE = (
            pad_sequence(list(torch.split(x, lengths)), True).transpose(1, 2) for x in (q_THE, k_THE, v_THE)
        )
        mixed_BTHE = functional.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE, is_causal=True).transpose(1, 2)
        return torch.cat([mixed[:length] for mixed, length in zip(mixed_BTHE, lengths, strict=True)])

    def error(answer: Tensor, given: Inputs) -> float:
        q_THE, k_THE, v_THE = (x[: lengths[0]].cpu().double() for x in given)
        q_THE = turn(q_THE, cos_LP[: lengths[0], None].cpu().double(), sin_LP[: lengths[0], None].cpu().double())
        truth = causal_attention(*(x.transpose(0, 1)[None] for x in (q_THE, k_THE, v_THE)))[0].transpose(0, 1)
        return worst(answer[: lengths[0]], truth)

    return Race(
        op="attention",
        shape=f"{num_events} events of {num_histories}, {num_heads} x {width}",
        num_bytes=8.0 * num_events * num_heads * width,
        num_flop=sum(2.0 * length * (length + 1) * num_heads * width for length in lengths),
        inputs=inputs,
        contenders={"ours": lambda q, k, v: packed_attention(q, k, v, cos_LP, sin_LP, packing), "torch padded": padded},
        error=error,
        tolerance=3e-2,
    )


def decode(num_histories: int, num_heads: int, num_kv_heads: int, width: int, device: torch.device) -> Race:
    """Attention of one new event in histories of 256 events, in pages of 64."""
    page, pages = 64, 4
    cos_LP, sin_LP = torch.ones(256, width // 2, device=device), torch.zeros(256, width // 2, device=device)
    pages_BM = torch.randperm(num_histories * pages, generator=torch.Generator().manual_seed(0)).view(num_histories, pages).int()
    pages_BM, lengths_B = pages_BM.to(device), torch.full((num_histories,), 256, dtype=torch.int32, device=device)
    offsets_F = torch.arange(num_histories + 1, dtype=torch.int32, device=device)

    def inputs(seed: int) -> Inputs:
        make = seeded(seed, device)
        cache = (make(num_histories * pages, num_kv_heads, page, width) for _ in range(2))
        return make(num_histories, num_heads, width), *cache

    def gathered(q_BHE: Tensor, k_NGCE: Tensor, v_NGCE: Tensor) -> Tensor:
        k_BGLE, v_BGLE = (x_NGCE[pages_BM.long()].transpose(1, 2).flatten(2, 3) for x_NGCE in (k_NGCE, v_NGCE))
        return functional.scaled_dot_product_attention(q_BHE[:, :, None], k_BGLE, v_BGLE, enable_gqa=True)[:, :, 0]

    def error(answer: Tensor, given: Inputs) -> float:
        return worst(answer[:SLICE], gathered(*(x.double() for x in given))[:SLICE].cpu())

    return Race(
        op="decode",
        shape=f"{num_histories} x 256 events, {num_heads} heads, {num_kv_heads} of keys, {width}",
        num_bytes=4.0 * num_histories * 256 * num_kv_heads * width,
        num_flop=4.0 * num_histories * 256 * num_heads * width,
        inputs=inputs,
        contenders={
            "ours": lambda q, k, v: paged_attention(q, k, v, pages_BM, lengths_B, offsets_F, cos_LP, sin_LP, 1),
            "torch gathered": gathered,
        },
        error=error,
        tolerance=3e-2,
    )


def added_norm(num_rows: int, width: int, device: torch.device) -> Race:
    """Adding to the residual stream, then normalising."""
    weight_D = torch.ones(width, device=device)
    reference = partial(_second, add_rms_norm_reference, weight_D)
    return _rowwise("added norm", num_rows, width, 4, device, 2, partial(_second, add_rms_norm, weight_D), reference)


def _second(op: Callable[..., tuple[Tensor, Tensor]], weight_D: Tensor, x_TD: Tensor, added_TD: Tensor) -> Tensor:
    return op(x_TD, added_TD, weight_D.to(x_TD.dtype))[1]


def gated(num_rows: int, width: int, device: torch.device) -> Race:
    """The gated unit of the feed-forward layers (SwiGLU)."""
    return _rowwise("gated unit", num_rows, 2 * width, 1.5, device, 1, swiglu, swiglu_reference)


def _rowwise(
    op: str,
    num_rows: int,
    width: int,
    passes: float,
    device: torch.device,
    num_inputs: int,
    ours: Callable[..., Tensor],
    reference: Callable[..., Tensor],
) -> Race:
    """An op that works row by row, so only memory bandwidth limits it."""
    return Race(
        op=op,
        shape=f"{num_rows} x {width}",
        num_bytes=2.0 * passes * num_rows * width,
        num_flop=0.0,
        inputs=lambda seed: tuple(seeded(seed + i, device)(num_rows, width) for i in range(num_inputs)),
        contenders={"ours": ours, "torch": reference, **_compiled(reference, device)},
        error=lambda answer, given: worst(answer[:SLICE], reference(*(x[:SLICE].cpu().double() for x in given))),
        tolerance=2e-2,
    )


def _compiled(reference: Callable[..., Tensor], device: torch.device) -> dict[str, Callable[..., Any]]:
    return {"torch.compile": torch.compile(reference, dynamic=False)} if device.type == "cuda" else {}


def bag(num_rows: int, num_fields: int, width: int, device: torch.device) -> Race:
    """The sum of two table rows for each field, from a table of 2^20 rows."""
    table_rows = 1 << (20 if device.type == "cuda" else 10)
    table_RE = seeded(0, device)(table_rows, width)

    def inputs(seed: int) -> Inputs:
        generator = torch.Generator(device).manual_seed(seed)
        slots_NS = torch.randint(table_rows, (num_rows, 2 * num_fields), generator=generator, device=device, dtype=torch.int32)
        return slots_NS, seeded(seed, device)(num_rows, 2 * num_fields)

    def summed(table_RE: Tensor, slots_NS: Tensor, weights_NS: Tensor) -> Tensor:
        gathered_NSE = table_RE[slots_NS.long()] * weights_NS[..., None]
        return gathered_NSE.view(len(slots_NS), num_fields, 2, width).sum(2)

    return Race(
        op="bag",
        shape=f"{num_rows} x {num_fields} fields x {width}",
        num_bytes=6.0 * num_rows * num_fields * width + 12.0 * num_rows * num_fields,
        num_flop=0.0,
        inputs=inputs,
        contenders={
            "ours": lambda slots, weights: gather_pool(table_RE, slots, weights, [2] * num_fields),
            "torch": lambda slots, weights: summed(table_RE, slots, weights),
        },
        error=lambda answer, given: worst(
            answer[:SLICE], summed(table_RE.double(), given[0][:SLICE], given[1][:SLICE].double()).cpu()
        ),
        tolerance=2e-2,
    )
