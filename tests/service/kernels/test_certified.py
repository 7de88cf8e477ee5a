"""The int8 form is exact: it is watched and compared as the float16 form is in `test_topk`, and its bounds are looked at."""

from typing import Any

import pytest
import torch
from torch import Tensor

from service.kernels import topk
from service.kernels.catalogue import Catalogue
from service.kernels.certified import coded_catalogue_of
from service.kernels.topk import top_k_reference, top_k_triton
from tests.interpreter import checked


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many groups were scored, each time."""
    noted, best = list[int](), topk._best

    def noting(queries_QV: Tensor, catalogue: Catalogue, bounds_QM: Tensor, num_scored: int, *rest: Any) -> tuple[Tensor, Tensor]:
        noted.append(num_scored)
        return best(queries_QV, catalogue, bounds_QM, num_scored, *rest)

    monkeypatch.setattr(topk, "_best", noting)
    return noted


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_row_is_its_code_within_its_residual(dtype: torch.dtype) -> None:
    rows = drawn(300, 20).to(dtype)
    rows[5], rows[6] = 0, 1e-6
    coded = coded_catalogue_of(rows)
    assert coded.scale_P is not None
    assert coded.residual_P is not None
    decoded = coded.codes_PV.double() * coded.scale_P.double()[:, None]
    off = (coded.rows_PV.double() - decoded).norm(dim=1)[:300]
    assert coded.codes_PV.dtype == torch.int8
    assert (coded.codes_PV[:300].abs().amax(1) == 127).sum() == 299
    assert (off <= coded.residual_P[:300]).all()
    assert (coded.residual_P[:300] <= 1.001 * off + 1e-30).all()
    assert decoded[:300].norm(dim=1).max() <= coded.max_norm


def test_padding_and_nan_have_no_scale_and_so_no_score() -> None:
    rows = torch.ones(3, 16)
    rows[1, 4] = torch.nan
    coded = coded_catalogue_of(rows)
    assert coded.scale_P is not None
    assert coded.scale_P.isnan().nonzero().flatten().tolist() == [1, *range(3, 256)]


def test_codes_are_made_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = coded_catalogue_of(drawn(500, 16))
    monkeypatch.setattr("service.kernels.certified._BLOCK_ROWS", 100)
    parts = coded_catalogue_of(drawn(500, 16))
    assert torch.equal(whole.codes_PV, parts.codes_PV)
    assert whole.max_norm == parts.max_norm


def test_rows_that_int8_cannot_tell_apart_are_ordered_all_the_same(counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """With too few groups at first: more follow, until what is left is bounded by what was found."""
    monkeypatch.setattr(topk, "_SPARE_GROUPS", 0)
    monkeypatch.setattr(topk, "_SPARE_SHARE_CODED", 0)
    rows = torch.ones(500, 16) + 1e-4 * drawn(500, 16)
    queries, coded = drawn(1, 16, seed=1), coded_catalogue_of(rows)
    with checked():
        found = top_k_triton(queries, coded, 2)
    expected = top_k_reference(queries, coded, 2)
    assert found[0].tolist() == expected[0].tolist()
    assert found[1].tolist() == expected[1].tolist()
    assert counts[:2] == [2, 8]


def test_of_many_rows_few_groups_are_scored(counts: list[int]) -> None:
    coded = coded_catalogue_of(drawn(3_000, 32))
    with checked():
        top_k_triton(drawn(2, 32, seed=1), coded, 10)
    assert counts == [28]
