"""The choice of an index, and what is measured of it."""

import resource
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedder_cache.checks import index_choice as indexing
from embedder_cache.checks.index_choice import Sizes, make_index, recall
from tests.twotower.index.faiss_gpu import stand_in
from twotower.data.features import Floats
from twotower.device import Device
from twotower.index.files import open_index
from twotower.index.kinds import EXACT, GPU_KINDS, KINDS, Kind
from twotower.index.search import Finder, Index

GPU = Device(torch.device("cuda", 0))
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


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in GPU_KINDS])
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


WIDE = np.random.default_rng(2).standard_normal((2_000, 601)).astype(np.float32)  # too wide for the exact search of a GPU
WIDE_QUERIES = np.random.default_rng(3).standard_normal((8, 601)).astype(np.float32)


def test_on_a_gpu_the_kind_follows_from_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, free_bytes=8 << 30)
    made = make_index(tmp_path, VECTORS, 16, "auto", QUERIES, device=GPU)
    assert (made.info.kind, made.report.why) == ("flat", "two of 0.0 GiB fit into half of the GPU's 8.0 GiB")
    made = make_index(tmp_path, VECTORS, 16, "auto", QUERIES, Sizes(flat_bytes=1000), GPU)
    assert made.info.kind == "int8"
    made = make_index(tmp_path, WIDE, 600, "auto", WIDE_QUERIES, device=GPU)
    assert made.info.kind == "gpu_flat16"
    assert made.report.recall >= 0.95


@pytest.mark.parametrize("num_gpus", [0, 1])
def test_where_the_gpu_cannot_be_used_or_finds_too_little_the_cpu_gets_its_kind(
    num_gpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, free_bytes=8 << 30)
    monkeypatch.setattr("faiss.get_num_gpus", lambda: num_gpus)
    monkeypatch.setattr("embedder_cache.checks.index_choice.recall", lambda *_: 0.5)
    made = make_index(tmp_path, WIDE, 600, "auto", WIDE_QUERIES, device=GPU)
    assert made.info.kind == "flat"
    why = ("FAISS sees 0 GPUs", "gpu_flat16 finds only 50.0% of the exact best 100")[num_gpus]
    assert "an index for the CPU is built, because" in (said := capsys.readouterr().err)
    assert why in said


def test_where_nothing_fits_on_the_gpu_the_cpu_gets_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, free_bytes=1000)
    assert make_index(tmp_path, VECTORS, 16, "auto", QUERIES, device=GPU).info.kind == "flat"
    assert "no kind of index fits on cuda:0 twice, so one for the CPU is built" in capsys.readouterr().err


def test_a_gpu_holds_one_index_at_a_time_while_efforts_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    monkeypatch.setattr(indexing, "recall", lambda *_: 0.5)
    monkeypatch.setitem(indexing.EFFORTS, "gpu_ivfpq", (1, 2, 3))
    opened, held = list[int](), weakref.WeakSet[Finder]()
    real = open_index

    def counted(*arguments: Any) -> Index:
        opened.append(len(held))
        index = real(*arguments)
        held.add(index.finder)
        return index

    monkeypatch.setattr(indexing, "open_index", counted)
    make_index(tmp_path, VECTORS, 16, "gpu_ivfpq", QUERIES, device=GPU)
    assert opened == [0, 0, 0]


def test_the_least_effort_that_finds_enough_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(indexing.EFFORTS, "ivfpq", (4, 1000, 2000))  # of 44 lists
    made = make_index(tmp_path, VECTORS, 16, "ivfpq", QUERIES)
    assert made.info.effort == 1000


def test_recall_is_of_the_rows_that_there_are() -> None:
    assert recall(np.array([[3, 1, -1]]), np.array([[1, 2, -1]])) == 0.5
