"""The choice of an index, and what is measured of it."""

from pathlib import Path

import numpy as np
import pytest

from embedder_cache.checks import index_choice as indexing
from embedder_cache.checks.index_choice import Sizes, make_index, recall
from twotower.index.kinds import Kind

VECTORS = np.random.default_rng(0).standard_normal((2_000, 17)).astype(np.float32)
QUERIES = np.random.default_rng(1).standard_normal((8, 17)).astype(np.float32)


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
