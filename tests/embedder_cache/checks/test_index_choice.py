"""The choice of an index, and what is measured of it."""

import resource
from pathlib import Path

import numpy as np
import pytest

from embedder_cache.checks import index_choice as indexing
from embedder_cache.checks.index_choice import Sizes, make_index, recall
from twotower.data.features import Floats
from twotower.index.kinds import EXACT, KINDS, Kind

VECTORS = np.random.default_rng(0).standard_normal((2_000, 17)).astype(np.float32)
QUERIES = np.random.default_rng(1).standard_normal((8, 17)).astype(np.float32)


def lifelike(num_items: int, width: int = 16) -> tuple[Floats, Floats]:
    """Vectors that vary along few directions, as embeddings do, with a popularity; and queries."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((6, width))
    vectors = rng.standard_normal((num_items, 6)) @ directions + 0.1 * rng.standard_normal((num_items, width))
    queries = rng.standard_normal((40, 6)) @ directions
    popularity = rng.normal(-9, 1, (num_items, 1))
    return (
        np.concatenate([vectors, popularity], 1).astype(np.float32),
        np.concatenate([queries, np.ones((40, 1))], 1).astype(np.float32),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_finds_the_best_of_many_items_in_little_memory(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many that a search without its index would be seen: of Milvus it took gigabytes."""
    monkeypatch.setenv("TWOTOWER_MILVUS", str(tmp_path / "milvus.db"))
    vectors, queries = lifelike(50_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made = make_index(tmp_path, vectors, 16, kind, queries)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
    assert made.report.kind == kind
    assert made.report.recall >= 0.95
    assert made.report.recall == 1.0 or kind not in EXACT
    assert grown_mib < 600


@pytest.mark.parametrize(
    ("sizes", "kind"),
    [
        (Sizes(), "flat"),
        (Sizes(flat_bytes=1000), "int8"),
        (Sizes(exact_items=1000), "ivfpq"),
    ],
)
def test_the_kind_follows_from_the_size(tmp_path: Path, sizes: Sizes, kind: Kind) -> None:
    made = make_index(tmp_path, VECTORS, 16, "auto", QUERIES, sizes)
    assert (made.info.kind, made.report.kind) == (kind, kind)
    assert made.report.recall >= 0.95
    assert (made.report.memory_bytes < VECTORS.nbytes) == (kind != "flat")
    assert made.report.search_p99_ms > 0


def test_an_approximate_index_that_finds_too_little_is_not_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twotower.index.approximate.REFINED", 1)
    made = make_index(tmp_path, VECTORS, 16, "auto", QUERIES, Sizes(exact_items=1000))
    assert made.info.kind == "int8"
    assert "ivfpq finds only" in made.report.why
    assert [file.name for file in tmp_path.iterdir()] == ["index.safetensors"]


def test_the_least_effort_that_finds_enough_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(indexing._EFFORTS, "ivfpq", (4, 1000, 2000))  # of 44 lists
    made = make_index(tmp_path, VECTORS, 16, "ivfpq", QUERIES)
    assert made.info.effort == 1000


def test_recall_is_of_the_rows_that_there_are() -> None:
    assert recall(np.array([[3, 1, -1]]), np.array([[1, 2, -1]])) == 0.5
