"""Integer products bound every score from above, and the answer is that of a full scan."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.data.features import Floats
from twotower.index import integers
from twotower.index.coded import CodedRows, encoded
from twotower.index.integers import IntegerRows, coded_rows, exact_rows, fastest
from twotower.index.principal import PrincipalRows, TransposedRows
from twotower.index.scan import Float32Rows, Rows, Scan
from twotower.index.search import Index


def rows_of(vectors_NV: Floats, width: int) -> IntegerRows:
    return IntegerRows(vectors_NV, *encoded(vectors_NV, width, "int8"))


def index_of(rows: Rows) -> Index:
    finder = Scan(rows)
    return Index("int8", rows.vectors_NV, finder, exact=finder)


def drawn(num: int, width: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((num, width)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(2, 140),
    tail=st.integers(0, 5),
    k=st.integers(1, 60),
    num_queries=st.sampled_from([1, 2, 20]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    masked=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_answer_is_that_of_a_full_scan(
    width: int, tail: int, k: int, num_queries: int, scale: float, masked: bool, seed: int
) -> None:
    vectors, queries = drawn(400, width + tail, seed), scale * drawn(num_queries, width + tail, seed + 1)
    vectors[:, width:] *= 10  # popularity is larger than the embedding
    vectors[:3] = 0
    queries[0, : width // 2] = 0
    allowed = np.random.default_rng(seed).random(400) < 0.7 if masked else None
    found = index_of(rows_of(vectors, width)).search(queries, k, allowed)
    expected = index_of(Float32Rows(vectors)).search(queries, k, allowed)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_no_bound_is_under_its_score_and_bounds_are_tight(spread: float) -> None:
    """Also where one value of a vector is much larger than the others, and codes say little of these."""
    vectors, queries = drawn(3000, 66), drawn(4, 66, seed=1)
    vectors[:, 0] *= spread
    queries[:, 1] *= spread
    rows, bounds = rows_of(vectors, 64), np.empty((4, 3000), np.float32)
    rows.multiply(rows.extend(queries), 0, 3000, bounds)
    exact = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    lengths = np.outer(np.linalg.norm(queries, axis=1), np.linalg.norm(vectors, axis=1))
    assert (bounds >= exact - 1e-6 * lengths).all()
    assert ((bounds - exact) / lengths).max() < 0.02 * spread


def test_the_largest_codes_do_not_overflow() -> None:
    vectors = np.ones((50, 1024), np.float32)
    vectors[10] = 1.001
    assert index_of(rows_of(vectors, 1024)).search(np.ones((1, 1024), np.float32), 1)[0].tolist() == [[10]]


def test_a_width_of_which_torch_multiplies_wrongly_is_not_multiplied_as_integers() -> None:
    vectors = drawn(400, 1)
    for rows in (exact_rows(vectors, 1), coded_rows(vectors, *encoded(vectors, 1, "int8"))):
        found, expected = (index_of(each).search(drawn(1, 1, seed=1), 5) for each in (rows, Float32Rows(vectors)))
        np.testing.assert_array_equal(found[0], expected[0])


def test_wider_embeddings_are_not_multiplied_as_integers() -> None:
    vectors = drawn(3000, 1100)
    assert isinstance(exact_rows(vectors, 1100), TransposedRows)
    assert type(coded_rows(vectors, *encoded(vectors, 1100, "int8"))) is CodedRows


def test_what_is_fastest_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {TransposedRows: 3.0, IntegerRows: 1.0, CodedRows: 2.0}
    monkeypatch.setattr(integers, "_seconds", lambda rows, _: taken[type(rows)])
    vectors = drawn(200, 34)
    assert type(exact_rows(vectors, 32)) is IntegerRows
    assert type(coded_rows(vectors, *encoded(vectors, 32, "int8"))) is IntegerRows
    taken[IntegerRows] = 4.0
    assert type(exact_rows(vectors, 32)) is TransposedRows
    assert type(coded_rows(vectors, *encoded(vectors, 32, "int8"))) is CodedRows


def test_rows_along_few_axes_need_no_codes() -> None:
    vectors = (drawn(3000, 4) @ drawn(4, 64)).astype(np.float32)
    rows = coded_rows(vectors, *encoded(vectors, 62, "int8"))
    assert type(rows) is PrincipalRows
    assert rows.num_bytes <= 3000 * 62


@pytest.mark.parametrize("choices", [[Float32Rows], [Float32Rows, TransposedRows]])
def test_a_catalogue_without_items_has_rows_too(choices: Sequence[type[Float32Rows]]) -> None:
    assert type(fastest(choices, np.zeros((0, 8), np.float32))) is Float32Rows
