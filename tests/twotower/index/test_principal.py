"""The answer is that of a full scan whatever the rows are; how few rows are left to score is what the axes are for."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.data.features import Floats
from twotower.index import scan
from twotower.index.files import open_index
from twotower.index.kinds import IndexInfo
from twotower.index.principal import PrincipalRows, principal_axes, transposed
from twotower.index.scan import Float32Rows, Scan
from twotower.index.search import Index


def along_few_axes(num_items: int, width: int = 64, num_axes: int = 6, rest: float = 0.03, seed: int = 0) -> Floats:
    """Rows that differ along few directions, far from the origin, and a little along all."""
    rng = np.random.default_rng(seed)
    along = rng.standard_normal((num_items, num_axes)) @ rng.standard_normal((num_axes, width))
    return (5 * rng.standard_normal(width) + along + rest * rng.standard_normal((num_items, width))).astype(np.float32)


def index_of(vectors_NV: Floats, rows: PrincipalRows | Float32Rows) -> Index:
    finder = Scan(rows)
    return Index("flat", vectors_NV, finder, exact=finder)


@settings(max_examples=40, deadline=None)
@given(
    num_axes=st.integers(1, 63),
    rest=st.sampled_from([0.0, 0.03, 1.0]),
    k=st.integers(1, 300),
    num_queries=st.integers(1, 4),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    masked=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_answer_is_that_of_a_full_scan(
    num_axes: int, rest: float, k: int, num_queries: int, scale: float, masked: bool, seed: int
) -> None:
    """Also where the rest is most of a row, and bounds rule nothing out."""
    rng = np.random.default_rng(seed)
    vectors, queries = (
        along_few_axes(500, rest=rest, seed=seed),
        rng.standard_normal((num_queries, 64)).astype(np.float32) * scale,
    )
    axes, _ = np.linalg.qr(rng.standard_normal((64, num_axes)) if rest else vectors[:num_axes].T.astype(np.float64))
    allowed = rng.random(500) < 0.7 if masked else None
    without = None if masked else [rng.choice(500, 20, replace=False) for _ in queries]
    found = index_of(vectors, PrincipalRows(vectors, axes)).search(queries, k, allowed, without)
    expected = index_of(vectors, Float32Rows(vectors)).search(queries, k, allowed, without)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_where_bounds_tell_little_few_are_scored_all_the_same(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a model that has hardly learned: a query that lies along none of the axes."""
    monkeypatch.setattr(scan, "_MANY", 100)
    vectors = along_few_axes(4000, num_axes=2, rest=0.05)
    axes = principal_axes(vectors)
    assert axes is not None
    drawn = np.random.default_rng(1).standard_normal((2, 64))
    queries: Floats = (drawn - drawn @ axes @ axes.T).astype(np.float32)
    allowed = np.random.default_rng(2).random(4000) < share
    index = index_of(vectors, PrincipalRows(vectors, axes))
    query_C, _ = index.finder.find(queries, 10, allowed)
    assert np.bincount(query_C).max() < 20
    expected = index_of(vectors, Float32Rows(vectors)).search(queries, 10, allowed)
    np.testing.assert_array_equal(index.search(queries, 10, allowed)[0], expected[0])


def test_no_bound_is_under_its_score() -> None:
    vectors, rng = along_few_axes(5000), np.random.default_rng(1)
    rows = PrincipalRows(vectors, np.linalg.qr(rng.standard_normal((64, 7)))[0])
    queries = rng.standard_normal((3, 64)).astype(np.float32)
    bounds = np.empty((3, 5000), np.float32)
    rows.multiply(rows.extend(queries), 0, 5000, bounds)
    assert (bounds >= queries @ vectors.T - 1e-4).all()


def test_few_rows_are_scored_of_a_catalogue_that_varies_along_few_axes() -> None:
    vectors = along_few_axes(20_000)
    axes = principal_axes(vectors)
    assert axes is not None
    rows, queries = PrincipalRows(vectors, axes), np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)
    query_C, _ = Scan(rows).find(queries, 10, None)
    assert np.bincount(query_C).max() < 100
    assert rows.num_bytes <= vectors.nbytes / 4
    np.testing.assert_allclose(axes.T @ axes, np.eye(axes.shape[1]), atol=1e-9)


def test_rows_that_differ_along_most_axes_are_multiplied_as_they_are() -> None:
    rng = np.random.default_rng(0)
    vectors, queries = (rng.standard_normal((n, 64)).astype(np.float32) for n in (5000, 3))
    rows, products = transposed(vectors), np.empty((3, 100), np.float32)
    assert not isinstance(rows, PrincipalRows)
    assert rows.num_bytes == vectors.nbytes
    rows.multiply(rows.extend(queries), 200, 300, products)
    np.testing.assert_allclose(products, queries @ vectors[200:300].T, atol=1e-4)


@pytest.mark.parametrize("vector", [0.0, 3.0])
def test_rows_that_are_all_the_same_tie_by_row(vector: float, tmp_path: Path) -> None:
    vectors = np.full((5000, 64), vector, np.float32)
    index = open_index(tmp_path, vectors, 64, IndexInfo(kind="flat"))
    assert index.search(np.ones((1, 64), np.float32), 5)[0].tolist() == [[0, 1, 2, 3, 4]]
