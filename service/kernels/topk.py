"""The exact best k rows of a catalogue for each query, in two passes, without storing all N scores of a query.

Pass 1 writes an upper bound of the scores of each group of G consecutive rows. Pass 2 scores the rows of the k + m groups with
the largest bounds, where m is the number of rows that a query leaves out; pass 1 does not know these. Each of the k groups with
the largest maxima holds a row that reaches the k-th best score, so the best k rows are in these groups. Because rounding could
swap groups, some more groups are scored. The answer is proven when its k-th score is above the bounds of all groups that were
not scored; otherwise more groups are scored. On a CPU, `twotower.index.search.Index.search` serves the same rows and scores.

N: rows, P: rows after padding, V: vector width after padding, D: before, Q: queries, G: rows of a group, M: groups = P / G,
K: results, B: groups that are scored, C: rows that are scored = B G, S: spans of groups, X: rows left out,
W: words of 32 rows = P / 32
"""

from collections.abc import Sequence
from itertools import compress

import torch
from torch import Tensor
from torch.nn.functional import pad

from service.kernels.catalogue import ALIGNED, Catalogue, tile_rows
from service.kernels.selection import LONGEST, SPAN, highest, lowest_taken, taken
from twotower.kernels.configurations import configuration, current_target
from twotower.kernels.dispatch import jit, tl, triton, use_triton

_ROUNDING = 2.0**-22  # relative error of one addition; tensor cores cut digits off where a CPU rounds
# Groups scored beyond the k + m, because bounds are not exact: a number, and a share of k without codes and with codes.
_SPARE_GROUPS, _SPARE_SHARE, _SPARE_SHARE_CODED = 8, 1 / 8, 1.0
_MORE = 4  # if an answer is not proven, this many times as many groups are scored
_PROGRAMS, _MAX_TILES = 512, 16  # tiles are divided among programs so that every multiprocessor has a few of them
_CANDIDATE_VALUES, _BLOCK_X = 8192, 64
_FEWER = 4  # spans of groups are used if they are this many times as many as the groups wanted
_NOTHING_KEY = tl.constexpr(-(0x7F800001 << 32))  # the key of row -1 with score -inf


def top_k(
    queries_QD: Tensor, catalogue: Catalogue, k: int, allowed_W: Tensor | None = None, excluded_QX: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Rows [Q, K], int64, and scores [Q, K], float32, of the best k allowed rows, best first; equal scores by the lower row.

    `allowed_W` is a bitmap for all queries; `excluded_QX`, int32, names the rows that each query leaves out, filled up with -1. A
    score is the product of query and row in float64, rounded to float32. A row is found only if its score is finite, which it is
    not with a NaN or an infinity in query or row. If fewer than k rows are found, row -1 with score -inf fills up the answer.
    ValueError for queries wider than the rows, a bitmap of another catalogue, or k under 1.
    """
    num_padded, width = catalogue.rows_PV.shape
    if k < 1 or queries_QD.shape[1] > width:
        raise ValueError(f"k is {k} and queries are {queries_QD.shape[1]} wide: k is at least 1, rows are {width} wide.")
    if allowed_W is not None and 32 * len(allowed_W) != num_padded:
        raise ValueError(f"a bitmap of {32 * len(allowed_W)} rows for {num_padded}: make it with `bitmap`, for this catalogue.")
    tensors = [t for t in (queries_QD, catalogue.rows_PV, allowed_W, excluded_QX) if t is not None]
    impl = top_k_triton if use_triton(*tensors) else top_k_reference
    return impl(queries_QD, catalogue, k, allowed_W, excluded_QX)


def top_k_at_once(
    queries_QV: Tensor, catalogue: Catalogue, k: int, out: Sequence[Tensor], excluded_QX: Tensor | None = None
) -> None:
    """As `top_k`, without waiting for the device, of queries as wide as the padded rows.

    Writes rows [Q, K], scores [Q, K], and a number [Q] that is not 0 where the answer is not proven; rows and number are int32.
    """
    tensors = [t for t in (queries_QV, catalogue.rows_PV, excluded_QX) if t is not None]
    if use_triton(*tensors) and len(queries_QV) and len(catalogue):
        queries_QV, bounds_QM, num_scored, excluded_QX = _first_pass(queries_QV, catalogue, k, None, excluded_QX)
        _second_pass(queries_QV, catalogue, bounds_QM, num_scored, k, None, excluded_QX, out)
        return
    out[0][:], out[1][:] = top_k_reference(queries_QV, catalogue, k, None, excluded_QX)
    out[2].zero_()


def top_k_reference(
    queries_QD: Tensor, catalogue: Catalogue, k: int, allowed_W: Tensor | None = None, excluded_QX: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The reference for `top_k`, which sorts all scores."""
    num_rows, num_queries = len(catalogue), len(queries_QD)
    rows_NV = catalogue.rows_PV[:num_rows, : queries_QD.shape[1]]
    scores_QN = (queries_QD.double() @ rows_NV.double().T).float()
    found_QN = scores_QN.isfinite()
    if allowed_W is not None:
        bit = torch.arange(32, dtype=torch.int32, device=allowed_W.device)
        found_QN &= (allowed_W[:, None] >> bit & 1).bool().view(-1)[:num_rows]
    if excluded_QX is not None:
        row = torch.where(excluded_QX < 0, num_rows, excluded_QX).long()
        found_QN &= pad(found_QN, (0, 1)).scatter(1, row, False)[:, :num_rows]
    scores_QN = scores_QN.masked_fill(~found_QN, -torch.inf)
    scores_QN, row_QN = scores_QN.sort(dim=1, descending=True, stable=True)
    rows_QK = row_QN.new_full((num_queries, k), -1)
    scores_QK = scores_QN.new_full((num_queries, k), -torch.inf)
    rows_QK[:, :num_rows], scores_QK[:, :num_rows] = row_QN[:, :k], scores_QN[:, :k]
    return rows_QK.masked_fill(scores_QK.isneginf(), -1), scores_QK


@jit
def group_bounds(  # type: ignore[no-untyped-def]
    queries_ptr, codes_ptr, row_scale_ptr, residual_ptr, allowed_ptr, bounds_ptr,
    num_queries, num_tiles, tiles_each, num_groups, max_norm, rounding,
    HEAD: tl.constexpr, TAIL: tl.constexpr, GROUP: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_N: tl.constexpr,
) -> None:  # fmt: skip
    """Pass 1 for some queries and some tiles of BLOCK_N rows: an upper bound for each group, -inf if none of its rows is allowed.

    A query is divided by its largest value and rounded to the type of the product. The bounds include the largest possible error
    of this. The host has padded the rows to whole tiles, and each tile has whole words of the bitmap.
    """
    num_blocks = tl.cdiv(num_queries, BLOCK_Q)  # blocks of one tile run one after another, so it is read from memory once
    query = (tl.program_id(0) % num_blocks) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    asked = query < num_queries
    head, tail = tl.arange(0, HEAD), HEAD + tl.arange(0, TAIL if TAIL else 1)
    query_start = query[:, None] * (HEAD + TAIL)
    multiplied = codes_ptr.dtype.element_ty if row_scale_ptr is None else tl.float16
    values_head = tl.load(queries_ptr + query_start + head[None, :], mask=asked[:, None], other=0.0)
    largest = _largest(values_head)
    if TAIL:
        values_tail = tl.load(queries_ptr + query_start + tail[None, :], mask=asked[:, None], other=0.0)
        largest = tl.maximum(largest, _largest(values_tail))
    scale = tl.where(largest > 0, largest, 1.0)
    queries_head, squares, squares_left = _rounded(values_head, scale, multiplied)
    if TAIL:
        queries_tail, tail_squares, tail_left = _rounded(values_tail, scale, multiplied)
        squares, squares_left = squares + tail_squares, squares_left + tail_left
    off = (HEAD + TAIL + 8) * rounding  # relative error of a sum of so many products, and of the steps after it
    norm = tl.sqrt(squares) * (1 + off)
    error = 1.01 * (tl.sqrt(squares_left) + norm * off) * max_norm + 1e-30  # products may underflow
    first = (tl.program_id(0) // num_blocks) * tiles_each
    for tile in range(first, min(first + tiles_each, num_tiles)):
        row = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        wanted = tl.full((1, 1), 1, tl.int1)
        if allowed_ptr is not None:
            words = tl.load(allowed_ptr + tile * (BLOCK_N // 32) + tl.arange(0, BLOCK_N // 32))
            wanted = tl.max((words != 0).to(tl.int32), axis=0, keep_dims=True)[:, None] != 0  # if not, the rows are not loaded
        if row_scale_ptr is not None:
            row_scale, residual = tl.load(row_scale_ptr + row), tl.load(residual_ptr + row)
        row_start = row[None, :].to(tl.int64) * (HEAD + TAIL)
        rows_head = tl.load(codes_ptr + row_start + head[:, None], mask=wanted, other=0)
        products = tl.dot(queries_head, rows_head.to(queries_head.dtype), input_precision="ieee")
        if TAIL:
            rows_tail = tl.load(codes_ptr + row_start + tail[:, None], mask=wanted, other=0)
            products = tl.dot(queries_tail, rows_tail.to(queries_head.dtype), products, input_precision="ieee")
        if row_scale_ptr is not None:
            products = products * row_scale[None, :] + norm[:, None] * residual[None, :]
        found = products == products
        if allowed_ptr is not None:
            bits = (words[:, None] >> tl.arange(0, 32)[None, :]) & 1
            found = found & (tl.reshape(bits, (1, BLOCK_N)) != 0)
        products = tl.where(found, products, float("-inf"))
        highest = tl.max(tl.reshape(products, (BLOCK_Q, BLOCK_N // GROUP, GROUP)), axis=2)
        bounds = tl.where(highest > float("-inf"), (highest + error[:, None]) * scale[:, None], float("-inf"))
        group = tile * (BLOCK_N // GROUP) + tl.arange(0, BLOCK_N // GROUP)
        tl.store(bounds_ptr + query[:, None].to(tl.int64) * num_groups + group[None, :], bounds, mask=asked[:, None])


@jit
def _largest(values):  # type: ignore[no-untyped-def]
    """The largest absolute value of each row, among finite values."""
    return tl.max(tl.where(tl.abs(values) < float("inf"), tl.abs(values), 0.0), axis=1)


@jit
def _rounded(values, scale, TYPE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Values divided by the scale of their row and rounded, NaN if not finite; sums of their squares, and of squared errors."""
    scaled = tl.where(tl.abs(values) < float("inf"), values / scale[:, None], float("nan"))
    rounded = scaled.to(TYPE)
    left = scaled - rounded.to(tl.float32)
    return rounded, tl.sum(scaled * scaled, axis=1), tl.sum(left * left, axis=1)


@jit
def rescore(  # type: ignore[no-untyped-def]
    queries_ptr, rows_ptr, groups_ptr, allowed_ptr, excluded_ptr, keys_ptr, num_scored, num_excluded,
    HEAD: tl.constexpr, TAIL: tl.constexpr, GROUP: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_X: tl.constexpr,
) -> None:  # fmt: skip
    """Pass 2 for BLOCK_C candidates of one query: keys that sort by score and, at equal scores, put the lower row first."""
    part, query = tl.program_id(0), tl.program_id(1).to(tl.int64)
    candidate = part * BLOCK_C + tl.arange(0, BLOCK_C)
    wanted = candidate < num_scored * GROUP
    group = tl.load(groups_ptr + query * num_scored + candidate // GROUP, mask=wanted, other=0)
    row = group * GROUP + candidate % GROUP
    scores = _products(queries_ptr + query * (HEAD + TAIL), rows_ptr, row, 0, HEAD, HEAD + TAIL)
    if TAIL:
        scores += _products(queries_ptr + query * (HEAD + TAIL), rows_ptr, row, HEAD, TAIL, HEAD + TAIL)
    score = scores.to(tl.float32)
    found = tl.abs(score) < float("inf")
    if allowed_ptr is not None:
        found = found & (((tl.load(allowed_ptr + row // 32) >> (row % 32)) & 1) != 0)
    if excluded_ptr is not None:
        for start in range(0, num_excluded, BLOCK_X):
            place = start + tl.arange(0, BLOCK_X)
            excluded = tl.load(excluded_ptr + query * num_excluded + place, mask=place < num_excluded, other=-1)
            found = found & (tl.max((row[:, None] == excluded[None, :]).to(tl.int32), axis=1) == 0)
    score = tl.where(score == 0, 0.0, score)  # -0 is no less than 0
    bits = tl.where(found, score, float("-inf")).to(tl.int32, bitcast=True)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)
    key = (ordered << 32) | (tl.where(found, -1 - row, 0).to(tl.int64) & 0xFFFFFFFF)
    tl.store(keys_ptr + query * num_scored * GROUP + candidate, key, mask=wanted)


@jit
def _products(  # type: ignore[no-untyped-def]
    query_ptr, rows_ptr, row, start: tl.constexpr, WIDTH: tl.constexpr, STRIDE: tl.constexpr
):
    """Inner products over some columns in float64, where single products of float32 values are exact."""
    column = start + tl.arange(0, WIDTH)
    rows = tl.load(rows_ptr + row[:, None].to(tl.int64) * STRIDE + column[None, :]).to(tl.float32)
    query = tl.load(query_ptr + column)
    return tl.sum(rows.to(tl.float64) * query.to(tl.float64)[None, :], axis=1)


@jit
def best_keys(  # type: ignore[no-untyped-def]
    keys_ptr, best_ptr, num_keys, num_found, BLOCK_C: tl.constexpr, PART: tl.constexpr
) -> None:
    """The highest keys of one query, in any order."""
    query, place = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK_C)
    keys_ptr += query * num_keys
    keys = tl.load(keys_ptr + place, mask=place < num_keys, other=-0x8000000000000000)
    lowest, num_equal = lowest_taken(keys, num_found, 64)
    counts = tl.zeros([], tl.int32)
    for start in tl.range(0, num_keys, PART):
        candidate = start + tl.arange(0, PART)
        key = tl.load(keys_ptr + candidate, mask=candidate < num_keys, other=-0x8000000000000000)
        is_taken, rank, counts = taken(key, lowest, num_equal, counts)
        tl.store(best_ptr + query * num_found + rank, key, mask=is_taken)


@jit
def unpack_keys(  # type: ignore[no-untyped-def]
    best_ptr, rest_ptr, rows_ptr, scores_ptr, unproven_ptr, num_found, num_results, BLOCK_K: tl.constexpr
) -> None:
    """Rows and scores of the best keys of one query, in order, and whether a group that was left out could hold a better row."""
    query, place = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK_K)
    inside = place < num_results
    key = tl.load(best_ptr + query * num_found + place, mask=place < num_found, other=_NOTHING_KEY)
    is_before = (key[:, None] > key[None]) | ((key[:, None] == key[None]) & (place[:, None] < place[None]))
    rank = tl.sum((is_before & inside[:, None]).to(tl.int32), 0)
    ordered = (key >> 32).to(tl.int32)
    score = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    row = -1 - key.to(tl.int32)
    tl.store(rows_ptr + query * num_results + rank, row.to(rows_ptr.dtype.element_ty), mask=inside)
    tl.store(scores_ptr + query * num_results + rank, score, mask=inside)
    rest = tl.load(rest_ptr + query)
    last = tl.min(tl.where(inside, score, float("inf")), axis=0)
    tl.store(unproven_ptr + query, ((rest > float("-inf")) & (last <= rest)).to(tl.int32))


def top_k_triton(
    queries_QD: Tensor, catalogue: Catalogue, k: int, allowed_W: Tensor | None = None, excluded_QX: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`top_k` with Triton on a GPU."""
    if not len(queries_QD) or not len(catalogue):
        rows_QK = torch.full((len(queries_QD), k), -1, device=queries_QD.device)
        return rows_QK, torch.full((len(queries_QD), k), -torch.inf, device=queries_QD.device)
    queries_QV, bounds_QM, num_scored, excluded_QX = _first_pass(queries_QD, catalogue, k, allowed_W, excluded_QX)
    return _best(queries_QV, catalogue, bounds_QM, num_scored, k, allowed_W, excluded_QX)


def _first_pass(
    queries_QD: Tensor, catalogue: Catalogue, k: int, allowed_W: Tensor | None, excluded_QX: Tensor | None
) -> tuple[Tensor, Tensor, int, Tensor | None]:
    """Padded queries, their bounds, how many groups pass 2 scores, and the rows left out."""
    num_excluded = 0 if excluded_QX is None else excluded_QX.shape[1]
    missing = catalogue.rows_PV.shape[1] - queries_QD.shape[1]
    queries_QV = (pad(queries_QD.float(), (0, missing)) if missing else queries_QD.float()).contiguous()
    bounds_QM = upper_bounds(queries_QV, catalogue, allowed_W)
    share = _SPARE_SHARE if catalogue.residual_P is None else _SPARE_SHARE_CODED
    num_scored = k + num_excluded + _SPARE_GROUPS + int(share * k)
    return queries_QV, bounds_QM, num_scored, None if excluded_QX is None else excluded_QX.contiguous()


def upper_bounds(queries_QV: Tensor, catalogue: Catalogue, allowed_W: Tensor | None) -> Tensor:
    """Pass 1: an upper bound [Q, M] of the scores of the allowed rows of each group, -inf for a group without any."""
    (num_queries, width), block_n = queries_QV.shape, tile_rows(catalogue.head)
    num_groups, num_tiles = len(catalogue.rows_PV) // catalogue.group, len(catalogue.rows_PV) // block_n
    assert width == catalogue.rows_PV.shape[1]
    assert width % ALIGNED == num_groups % ALIGNED == 0  # so that loads are of 128 bits
    bounds_QM = torch.empty(num_queries, num_groups, device=queries_QV.device)
    line = "group_bounds" + ("" if allowed_W is None else "_masked") + ("_few" if num_queries <= 16 else "")
    options = configuration(line, current_target())
    tiles_each = min(max(num_tiles // _PROGRAMS, 1), _MAX_TILES)
    group_bounds[(triton.cdiv(num_tiles, tiles_each) * triton.cdiv(num_queries, options["BLOCK_Q"]),)](
        queries_QV, catalogue.codes_PV, catalogue.scale_P, catalogue.residual_P, allowed_W, bounds_QM,
        num_queries, num_tiles, tiles_each, num_groups, catalogue.max_norm, _ROUNDING, HEAD=catalogue.head, TAIL=catalogue.tail,
        GROUP=catalogue.group, BLOCK_N=block_n, **options,
    )  # fmt: skip
    return bounds_QM


def highest_groups(bounds_QM: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """The groups [Q, B] with the highest bounds of each query, and the highest bound of the others, [Q].

    The `num` highest bounds are in the spans with the `num` highest maxima. So one selection from a long row becomes two from
    shorter ones.
    """
    num_spans = bounds_QM.shape[1] // SPAN
    if num_spans < _FEWER * num:
        return highest(bounds_QM, num)
    spans_QS, _ = highest(bounds_QM.view(-1, num_spans, SPAN).amax(2), num + 1)
    return highest(bounds_QM, num, spans_QS)


def _best(
    queries_QV: Tensor,
    catalogue: Catalogue,
    bounds_QM: Tensor,
    num_scored: int,
    k: int,
    allowed_W: Tensor | None,
    excluded_QX: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Pass 2: rows and scores [Q, K] of the best. It runs again with more groups for queries whose answer is not proven."""
    rows_QK, scores_QK = bounds_QM.new_empty(len(queries_QV), k, dtype=torch.int64), bounds_QM.new_empty(len(queries_QV), k)
    unproven_Q = bounds_QM.new_empty(len(queries_QV), dtype=torch.int32)
    out = (rows_QK, scores_QK, unproven_Q)
    _second_pass(queries_QV, catalogue, bounds_QM, num_scored, k, allowed_W, excluded_QX, out)
    for query in compress(range(len(queries_QV)), unproven_Q.tolist()):
        one = slice(query, query + 1)
        excluded_1X = None if excluded_QX is None else excluded_QX[one]
        more = _best(queries_QV[one], catalogue, bounds_QM[one], _MORE * num_scored, k, allowed_W, excluded_1X)
        rows_QK[one], scores_QK[one] = more
    return rows_QK, scores_QK


def _second_pass(
    queries_QV: Tensor,
    catalogue: Catalogue,
    bounds_QM: Tensor,
    num_scored: int,
    k: int,
    allowed_W: Tensor | None,
    excluded_QX: Tensor | None,
    out: Sequence[Tensor],
) -> None:
    """Write rows and scores [Q, K] of the best in the groups with the largest bounds, and whether each is not proven, [Q]."""
    (num_queries, num_groups), group = bounds_QM.shape, catalogue.group
    num_scored = min(num_scored, num_groups)
    groups_QB, rest_Q = highest_groups(bounds_QM, num_scored)
    keys_QC = queries_QV.new_empty(num_queries, num_scored * group, dtype=torch.int64)
    block_c = min(64, _CANDIDATE_VALUES // catalogue.head)
    rescore[(triton.cdiv(keys_QC.shape[1], block_c), num_queries)](
        queries_QV, catalogue.rows_PV, groups_QB, allowed_W, excluded_QX, keys_QC, num_scored,
        0 if excluded_QX is None else excluded_QX.shape[1], HEAD=catalogue.head, TAIL=catalogue.tail, GROUP=group,
        BLOCK_C=block_c, BLOCK_X=_BLOCK_X, **configuration("rescore", current_target()),
    )  # fmt: skip
    num_found = min(k, keys_QC.shape[1])
    if keys_QC.shape[1] > LONGEST:
        best_QF = keys_QC.topk(num_found).values
    else:
        best_QF, block = keys_QC.new_empty(num_queries, num_found), triton.next_power_of_2(keys_QC.shape[1])
        options = configuration("best_keys", current_target())
        best_keys[(num_queries,)](
            keys_QC, best_QF, keys_QC.shape[1], num_found, BLOCK_C=block, **options | {"PART": min(block, options["PART"])}
        )  # fmt: skip
    unpack_keys[(num_queries,)](
        best_QF, rest_Q, *out, num_found, k, BLOCK_K=triton.next_power_of_2(k), **configuration("unpack_keys", current_target())
    )
