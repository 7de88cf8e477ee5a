"""Every kind for CPUs against a full sort of float64 products: what is found, in which order, with which score."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twotower.data.features import Floats, Ints
from twotower.index.files import open_index, write_index
from twotower.index.kinds import EXACT, GPU_KINDS, KINDS, IndexInfo, Kind
from twotower.index.scan import Mask
from twotower.index.search import Index

CPU_KINDS = [kind for kind in KINDS if kind not in GPU_KINDS]
REPEATABLE = [kind for kind in CPU_KINDS if kind != "milvus"]  # its server answers differently from call to call
EFFORT = {"ivfpq": 1000, "hnsw": 1000}  # every list, every row
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def milvus_lite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embedded, in a file of the test's own."""
    monkeypatch.setenv("TWOTOWER_MILVUS", str(tmp_path / "milvus.db"))


def make(directory: Path, vectors_NV: Floats, kind: Kind, num_popularity: int = 1) -> Index:
    width = vectors_NV.shape[1] - num_popularity
    write_index(directory, vectors_NV, width, kind)
    return open_index(directory, vectors_NV, width, IndexInfo(kind=kind, effort=EFFORT.get(kind, 0)))


def clustered(num_items: int, width: int = 12, num_popularity: int = 1, seed: int = 0) -> Floats:
    """Embeddings around a few centres and popularity of a large range."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((8, width))
    embedding = centres[rng.integers(0, 8, num_items)] + 0.5 * rng.standard_normal((num_items, width))
    return np.concatenate([embedding, np.minimum(rng.exponential(1.3, (num_items, num_popularity)) - 14, 0)], 1).astype(
        np.float32
    )


def queries_for(vectors_NV: Floats, num_queries: int, seed: int = 1) -> Floats:
    queries = np.random.default_rng(seed).standard_normal((num_queries, vectors_NV.shape[1])).astype(np.float32)
    queries[:, -1] = 0.3
    return queries


def reference(
    vectors_NV: Floats, queries_QV: Floats, k: int, allowed: Mask | None = None, without: list[Ints] | None = None
) -> tuple[Ints, Floats]:
    """A full sort of every query's scores."""
    scores_QN = (queries_QV.astype(np.float64) @ vectors_NV.T.astype(np.float64)).astype(np.float32)
    rows_QK, scores_QK = np.full((len(queries_QV), k), -1), np.full((len(queries_QV), k), -np.inf, np.float32)
    for q, scores_N in enumerate(scores_QN):
        rows = np.arange(len(vectors_NV)) if allowed is None else np.flatnonzero(allowed)
        rows = rows if without is None else np.setdiff1d(rows, without[q])
        order = rows[np.lexsort((rows, -scores_N[rows]))][:k]
        rows_QK[q, : len(order)], scores_QK[q, : len(order)] = order, scores_N[order]
    return rows_QK, scores_QK


def assert_same(found: tuple[Ints, Floats], expected: tuple[Ints, Floats]) -> None:
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("kind", sorted(EXACT))
@QUICK
@given(
    num_items=st.integers(1, 300),
    num_queries=st.integers(1, 5),
    k=st.integers(1, 320),
    share=st.sampled_from([None, 0.0, 0.05, 0.5, 1.0]),
    of_each=st.booleans(),
    ties=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_an_exact_kind_equals_a_full_sort(
    tmp_path: Path,
    kind: Kind,
    num_items: int,
    num_queries: int,
    k: int,
    share: float | None,
    of_each: bool,
    ties: bool,
    seed: int,
) -> None:
    """Whatever the size, the mask, and how many rows are equal."""
    vectors, queries = clustered(num_items, seed=seed), queries_for(clustered(1), num_queries, seed)
    if ties:  # small whole numbers: float32 is exact, and rows and scores repeat
        vectors, queries = np.rint(vectors), np.rint(queries)
    rng = np.random.default_rng(seed)
    allowed = None if share is None or of_each else rng.random(num_items) < share
    without = [np.flatnonzero(rng.random(num_items) >= share) for _ in queries] if share is not None and of_each else None
    found = make(tmp_path, vectors, kind).search(queries, k, allowed, without)
    assert_same(found, reference(vectors, queries, k, allowed, without))


@pytest.mark.parametrize("kind", sorted(EXACT))
def test_an_exact_kind_equals_a_full_sort_over_several_scans(tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twotower.index.scan._SCORES_AT_ONCE", 20_000)
    monkeypatch.setattr("twotower.index.scan._QUERIES_AT_ONCE", 8)
    monkeypatch.setattr("twotower.index.coded._BLOCK_ROWS", 512)
    vectors = clustered(9_001, num_popularity=2)
    queries = queries_for(vectors, 20)
    index = make(tmp_path, vectors, kind, num_popularity=2)
    rng = np.random.default_rng(2)
    allowed, left_out = rng.random(9_001) < 0.7, [rng.choice(9_001, 300, replace=False) for _ in queries]
    for mask, without in ((None, None), (allowed, None), (None, left_out)):
        assert_same(index.search(queries, 10, mask, without), reference(vectors, queries, 10, mask, without))


@pytest.mark.parametrize("kind", sorted(EXACT))
@pytest.mark.parametrize("k", [1, 3, 40, 400])
def test_of_equal_rows_the_lowest_are_kept(tmp_path: Path, kind: Kind, k: int) -> None:
    index = make(tmp_path, np.ones((400, 5), np.float32), kind)
    assert index.search(np.ones((1, 5), np.float32), k)[0][0].tolist() == list(range(k))


@pytest.mark.parametrize("kind", CPU_KINDS)
def test_the_answer_is_never_shorter_than_asked_while_items_remain(tmp_path: Path, kind: Kind) -> None:
    vectors = clustered(600)
    queries, index = queries_for(vectors, 3), make(tmp_path, vectors, kind)
    farthest = np.argsort(vectors @ queries[0])[:200]  # a hard mask for lists and links
    allowed = np.isin(np.arange(600), farthest)
    for mask, k, expected in ((None, 600, 600), (allowed, 190, 190), (allowed, 250, 200), (~allowed, 10, 10)):
        rows, scores = index.search(queries, k, mask)
        assert np.count_nonzero(rows >= 0, 1).tolist() == [expected] * 3
        assert all(len(set(row[:expected])) == expected for row in rows.tolist())
        assert mask is None or mask[rows[rows >= 0]].all()
        assert (rows[:, expected:] == -1).all()
        assert np.isneginf(scores[:, expected:]).all()


@pytest.mark.parametrize("kind", CPU_KINDS)
def test_the_rows_that_each_query_leaves_out_are_kept_apart(tmp_path: Path, kind: Kind) -> None:
    vectors = clustered(600)
    queries, index = queries_for(vectors, 4), make(tmp_path, vectors, kind)
    without = [np.random.default_rng(q).choice(600, 300, replace=False) for q in range(4)]
    rows, _ = index.search(queries, 20, without=without)
    assert (rows >= 0).all()
    assert not any(np.isin(rows_K, left_out).any() for rows_K, left_out in zip(rows, without, strict=True))


@pytest.mark.parametrize("kind", REPEATABLE)
def test_a_query_is_answered_alike_alone_and_among_others(tmp_path: Path, kind: Kind) -> None:
    vectors = clustered(600)
    queries, index = queries_for(vectors, 40), make(tmp_path, vectors, kind)
    rng = np.random.default_rng(0)
    allowed, left_out = rng.random(600) < 0.5, [rng.choice(600, 300, replace=False) for _ in queries]
    for mask, without in ((None, None), (allowed, None), (None, left_out)):
        rows, scores = index.search(queries, 20, mask, without)
        alone = index.search(queries[:1], 20, mask, None if without is None else without[:1])
        assert_same((rows[:1], scores[:1]), alone)


@pytest.mark.parametrize("kind", CPU_KINDS)
def test_a_score_depends_on_query_and_row_alone(tmp_path: Path, kind: Kind) -> None:
    vectors = clustered(600)
    queries, index = queries_for(vectors, 40), make(tmp_path, vectors, kind)
    exact = reference(vectors, queries, 600)
    dense = np.empty((40, 600), np.float32)
    np.put_along_axis(dense, exact[0], exact[1], 1)
    rows, scores = index.search(queries, 30)
    np.testing.assert_array_equal(scores, np.take_along_axis(dense, rows, 1))


@pytest.mark.parametrize("kind", CPU_KINDS)
@pytest.mark.parametrize("num_items", [1, 2, 17])
def test_a_tiny_catalogue_is_searched_too(tmp_path: Path, kind: Kind, num_items: int) -> None:
    vectors = clustered(num_items)
    queries = queries_for(vectors, 2)
    assert_same(make(tmp_path, vectors, kind).search(queries, 5), reference(vectors, queries, 5))


@pytest.mark.parametrize("kind", ["ivfpq", "hnsw"])
def test_an_approximate_kind_finds_nearly_all(tmp_path: Path, kind: Kind) -> None:
    vectors = clustered(2_000, num_popularity=2)
    queries = queries_for(vectors, 20)
    found = make(tmp_path, vectors, kind, num_popularity=2).search(queries, 20)[0]
    expected = reference(vectors, queries, 20)[0]
    assert np.mean([np.isin(e, f).mean() for e, f in zip(expected, found, strict=True)]) >= 0.95
