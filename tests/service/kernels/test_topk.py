"""Two passes against a full sort of float64 products; kernels run watched, see `tests.interpreter`."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.kernels import catalogue as catalogue_module
from service.kernels import topk
from service.kernels.catalogue import Catalogue, bitmap, catalogue_of
from service.kernels.certified import coded_catalogue_of
from service.kernels.selection import SPAN
from service.kernels.topk import top_k, top_k_reference, top_k_triton
from tests.interpreter import checked
from twotower.index.files import open_index
from twotower.index.kinds import IndexInfo

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
KINDS = [catalogue_of, coded_catalogue_of]
FORMS = [top_k_reference, top_k_triton]
Kind = Callable[[Tensor], Catalogue]
Form = Callable[..., tuple[Tensor, Tensor]]
QUICK = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LONG = settings(QUICK, max_examples=150)


@pytest.fixture(autouse=True)
def watched() -> Iterator[None]:
    with checked():
        yield


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def full_sort(
    queries_QD: Tensor, rows_ND: Tensor, k: int, allowed_N: Tensor | None = None, excluded_QX: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What is right, in NumPy."""
    scores_QN = (queries_QD.double() @ rows_ND.double().T).float().numpy()
    rows_QK, scores_QK = np.full((len(scores_QN), k), -1), np.full((len(scores_QN), k), -np.inf, np.float32)
    for q, scores_N in enumerate(scores_QN):
        found_N = np.isfinite(scores_N)
        if allowed_N is not None:
            found_N &= allowed_N.numpy()
        if excluded_QX is not None:
            found_N &= ~np.isin(np.arange(len(rows_ND)), excluded_QX[q].numpy())
        rows = np.flatnonzero(found_N)
        order = rows[np.lexsort((rows, -scores_N[rows]))][:k]
        rows_QK[q, : len(order)], scores_QK[q, : len(order)] = order, scores_N[order]
    return torch.from_numpy(rows_QK), torch.from_numpy(scores_QK)


def assert_same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    assert found[0].tolist() == expected[0].tolist()
    assert found[1].tolist() == expected[1].tolist()


def assert_equals_a_full_sort(
    kind: Kind, dtype: torch.dtype, num_rows: int, width: int, num_queries: int, k: int, share: float | None, num_excluded: int,
    ties: bool, seed: int,
) -> None:  # fmt: skip
    rows, queries = drawn(num_rows, width, seed=seed), drawn(num_queries, width, seed=seed + 1)
    if ties:  # whole numbers: scores repeat
        rows, queries = rows.round(), queries.round()
    rows, rng = rows.to(dtype), torch.Generator().manual_seed(seed)
    rows[::7] *= 3  # of one length, rows would be bounded too well
    allowed = None if share is None else torch.rand(num_rows, generator=rng) < share
    excluded = (
        torch.randint(-1, num_rows, (num_queries, num_excluded), generator=rng, dtype=torch.int32) if num_excluded else None
    )
    catalogue = kind(rows)
    found = top_k_triton(queries, catalogue, k, None if allowed is None else bitmap(allowed, catalogue), excluded)
    assert_same(found, full_sort(queries, rows, k, allowed, excluded))


SHAPES = {
    "num_rows": st.integers(1, 700),
    "width": st.sampled_from([3, 16, 33, 50]),
    "num_queries": st.sampled_from([1, 3]),
    "k": st.sampled_from([1, 5, 30]),
    "share": st.sampled_from([None, 0.0, 0.01, 0.5, 1.0]),
    "num_excluded": st.sampled_from([0, 1, 5]),
    "ties": st.booleans(),
    "seed": st.integers(0, 1000),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@QUICK
@given(**SHAPES)
def test_the_answer_is_that_of_a_full_sort(kind: Kind, dtype: torch.dtype, **shape: int) -> None:
    assert_equals_a_full_sort(kind, dtype, **shape)  # type: ignore[arg-type]


@pytest.mark.kernels
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@LONG
@given(**SHAPES)
def test_the_answer_is_that_of_a_full_sort_whatever_the_shape(kind: Kind, dtype: torch.dtype, **shape: int) -> None:
    assert_equals_a_full_sort(kind, dtype, **shape)  # type: ignore[arg-type]


@pytest.mark.parametrize(("num_queries", "num_excluded"), [(17, 0), (66, 1), (1, 70)])
def test_queries_and_left_out_rows_may_fill_several_blocks(num_queries: int, num_excluded: int) -> None:
    assert_equals_a_full_sort(catalogue_of, torch.float16, 600, 16, num_queries, 1, None, num_excluded, ties=False, seed=5)


@pytest.mark.parametrize(("programs", "group"), [(1, 16), (2, 32), (2, 128)])
def test_tiles_and_groups_may_be_shared_out_in_any_way(programs: int, group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "_PROGRAMS", programs)
    monkeypatch.setattr(catalogue_module, "_MIN_GROUP", group)
    assert_equals_a_full_sort(catalogue_of, torch.float16, 1_300, 20, 2, 4, share=0.5, num_excluded=2, ties=False, seed=3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [130, 260, 512])
def test_wide_rows_have_smaller_tiles(kind: Kind, width: int) -> None:
    assert_equals_a_full_sort(kind, torch.float16, 90, width, 2, 5, share=None, num_excluded=0, ties=False, seed=4)


def test_a_row_wider_than_a_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 512"):
        catalogue_of(torch.zeros(2, 513))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_of_equal_rows_the_lowest_are_kept_though_bounds_cannot_tell_them_apart(kind: Kind, value: float) -> None:
    catalogue = kind(torch.ones(600, 16))
    rows, scores = top_k_triton(torch.full((2, 16), value), catalogue, 5)
    assert rows.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert scores.tolist() == [[16 * value] * 5] * 2


def test_minus_zero_is_no_less_than_zero() -> None:
    rows = torch.zeros(20, 16)
    rows[::2] = -0.0
    assert top_k_triton(torch.ones(1, 16), catalogue_of(rows), 4)[0].tolist() == [[0, 1, 2, 3]]
    assert top_k_triton(-torch.ones(1, 16), catalogue_of(rows), 4)[0].tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_finite_score_is_never_found(form: Form, kind: Kind) -> None:
    rows, queries = drawn(40, 16), drawn(4, 16, seed=1)
    rows[3, 5], rows[4], rows[5, 0], rows[6] = torch.nan, torch.nan, torch.inf, 1e30
    queries[1, 2], queries[2, 2] = torch.nan, -torch.inf
    known = torch.ones(40, dtype=torch.bool)
    known[3:7] = False
    expected = full_sort(queries, rows, 40, known)
    assert (expected[0] >= 0).sum(1).tolist() == [36, 0, 0, 36]
    assert_same(form(queries, kind(rows), 40), expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_missing_is_filled_up(form: Form, kind: Kind) -> None:
    catalogue, empty, queries = kind(torch.eye(3, 16)), kind(torch.zeros(0, 16)), torch.eye(1, 16)
    nothing = [[-1] * 5], [[-torch.inf] * 5]
    assert [part.tolist() for part in form(queries, empty, 5)] == list(nothing)
    assert [part.tolist() for part in form(queries, catalogue, 5, bitmap(torch.zeros(3, dtype=torch.bool), catalogue))] == list(
        nothing
    )
    assert [part.shape for part in form(queries[:0], catalogue, 5)] == [(0, 5), (0, 5)]
    rows, scores = form(queries, catalogue, 5, None, torch.tensor([[1, -1]], dtype=torch.int32))
    assert rows.tolist() == [[0, 2, -1, -1, -1]]
    assert scores.tolist() == [[1, 0, -torch.inf, -torch.inf, -torch.inf]]


@pytest.mark.parametrize("form", FORMS)
def test_masks_are_joined_and_each_query_leaves_out_its_own(form: Form) -> None:
    catalogue = catalogue_of(torch.arange(64.0)[:, None])
    even, high = torch.arange(64) % 2 == 0, torch.arange(64) >= 40
    allowed = bitmap(even, catalogue) & bitmap(high, catalogue)
    rows, _ = form(torch.ones(2, 1), catalogue, 3, allowed, torch.tensor([[62, 58], [60, 60]], dtype=torch.int32))
    assert rows.tolist() == [[60, 56, 54], [62, 58, 56]]


def test_left_out_rows_may_hold_all_the_first_groups_best() -> None:
    """As many groups more are scored; pass 1 does not know."""
    rows = torch.zeros(1_024, 16)
    rows[::16, 0] = torch.arange(64.0, 0, -1)
    excluded = torch.arange(0, 640, 16, dtype=torch.int32)[None]
    assert top_k_triton(torch.eye(1, 16), catalogue_of(rows), 3, None, excluded)[0].tolist() == [[640, 656, 672]]


def test_a_tile_of_which_nothing_is_allowed_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes end after the second tile, so that reading the third or fourth would be a fault."""
    monkeypatch.setattr(topk, "_PROGRAMS", 1)
    whole = catalogue_of(drawn(512, 16))
    catalogue, queries = replace(whole, codes_PV=whole.codes_PV[:256].clone()), drawn(1, 16, seed=1)
    first_tiles = torch.arange(512) < 200
    assert_same(
        top_k_triton(queries, catalogue, 9, bitmap(first_tiles, whole)), full_sort(queries, whole.rows_PV, 9, first_tiles)
    )
    with pytest.raises(Exception, match="outside every tensor"):
        top_k_triton(queries, catalogue, 9, bitmap(torch.arange(512) < 300, whole))


@pytest.mark.parametrize("share", [None, 0.5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bound_is_above_every_allowed_score_of_its_group_and_hardly_more(
    kind: Kind, dtype: torch.dtype, share: float | None
) -> None:
    rows, queries = drawn(300, 48).to(dtype), 1e6 * drawn(3, 48, seed=1)  # more than float16 holds
    catalogue = kind(rows)
    scores = torch.full((3, len(catalogue.rows_PV)), -torch.inf, dtype=torch.float64)
    allowed = torch.rand(300, generator=torch.Generator().manual_seed(2)) < (1 if share is None else share)
    scores[:, :300] = (queries.double() @ rows.double().T).masked_fill(~allowed, -torch.inf)
    highest = scores.view(3, -1, catalogue.group).amax(2)
    bounds = topk.upper_bounds(queries, catalogue, None if share is None else bitmap(allowed, catalogue)).double()
    assert (bounds >= highest).all()
    norms = queries.norm(dim=1, keepdim=True) * rows.float().norm(dim=1).max()
    off = {torch.float32: 1e-4, torch.float16: 1e-3, torch.bfloat16: 6e-3}[dtype] if kind is catalogue_of else 2e-2
    assert (bounds <= highest + off * norms).all()


@pytest.mark.parametrize("kind", KINDS)
def test_among_many_groups_spans_of_them_are_ranked_first(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, queries = drawn(16_000, 16).half(), drawn(2, 16, seed=1)
    rows[3], rows[15_000] = rows[900], rows[900]
    allowed, excluded = torch.arange(16_000) % 5 != 0, torch.tensor([[900, 1_001, -1], [7, -1, -1]], dtype=torch.int32)
    catalogue = kind(rows)
    num_spans = len(catalogue.rows_PV) // catalogue.group // SPAN
    assert num_spans >= topk._FEWER * 14
    best, times = topk._best, list[int]()

    def noting(*arguments: Any) -> tuple[Tensor, Tensor]:
        times.append(1)
        return best(*arguments)

    monkeypatch.setattr(topk, "_best", noting)
    found = top_k_triton(queries, catalogue, 3, bitmap(allowed, catalogue), excluded)
    assert_same(found, full_sort(queries, rows, 3, allowed, excluded))
    assert len(times) == 1  # wrong groups would not prove the answer, and more would follow


def test_more_may_be_asked_for_than_there_are_with_padding() -> None:
    assert_equals_a_full_sort(catalogue_of, torch.float16, 5, 16, 3, 300, None, 0, ties=False, seed=6)


@pytest.mark.parametrize("num", [1, 20, 25, 26, 1_600])
def test_the_highest_bounds_are_those_of_a_sort(num: int) -> None:
    bounds = drawn(3, 1_600).round(decimals=1)  # many are equal
    bounds[2, 30:] = -torch.inf
    groups, rest = topk.highest_groups(bounds, num)
    highest = torch.nn.functional.pad(bounds.sort(dim=1, descending=True).values, (0, 1), value=-torch.inf)
    assert bounds.gather(1, groups.long()).sort(descending=True).values.tolist() == highest[:, :num].tolist()
    assert rest.tolist() == highest[:, num].tolist()
    assert all(len(set(row)) == num for row in groups.tolist())


def test_the_best_keys_are_those_of_a_sort_though_they_are_written_in_parts() -> None:
    keys = torch.randint(-(2**62), 2**62, (2, 600), generator=torch.Generator().manual_seed(0))
    keys[:, ::3] = keys[:, :1]  # many are equal
    keys[1, 20:] = -(2**62)
    best = torch.empty(2, 230, dtype=torch.int64)
    topk.best_keys[(2,)](keys, best, 600, 230, BLOCK_C=1024, PART=64)
    assert best.sort(dim=1, descending=True).values.tolist() == keys.sort(dim=1, descending=True).values[:, :230].tolist()


def test_of_more_keys_than_one_program_holds_torch_finds_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "LONGEST", 40)
    assert_equals_a_full_sort(catalogue_of, torch.float16, 600, 16, 2, 9, None, 0, ties=True, seed=5)


def test_on_a_cpu_the_answer_is_that_of_the_index(tmp_path: Path) -> None:
    rows, queries = drawn(5_000, 24), drawn(3, 24, seed=1)
    rows[7] = rows[4_000]
    index = open_index(tmp_path, rows.numpy(), 24, IndexInfo(kind="flat"))
    catalogue, allowed = catalogue_of(rows), torch.rand(5_000, generator=torch.Generator().manual_seed(2)) < 0.5
    for mask in (None, allowed):
        found = top_k(queries, catalogue, 50, None if mask is None else bitmap(mask, catalogue))
        expected = index.search(queries.numpy(), 50, None if mask is None else mask.numpy())
        assert_same(found, (torch.from_numpy(expected[0]), torch.from_numpy(expected[1])))


@pytest.mark.parametrize(("k", "width"), [(0, 16), (3, 17)])
def test_an_impossible_question_is_refused(k: int, width: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        top_k(torch.ones(1, width), catalogue_of(torch.ones(4, 16)), k)


def test_a_bitmap_of_another_catalogue_is_refused() -> None:
    small, large = catalogue_of(torch.ones(4, 16)), catalogue_of(torch.ones(400, 16))
    with pytest.raises(ValueError, match="for this catalogue"):
        top_k(torch.ones(1, 16), large, 1, bitmap(torch.ones(4, dtype=torch.bool), small))
