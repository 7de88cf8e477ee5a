"""The kinds of FAISS for GPUs on the stand-in that the tests of the index have."""

from dataclasses import replace

import faiss
import pytest
import torch

from benchmarks.device_path.faiss_kinds import faiss_kinds
from benchmarks.device_path.figures import Figure
from benchmarks.device_path.sizes import FULL, SMALL, Sizes
from tests.twotower.index.faiss_gpu import stand_in
from twotower.device import ON_CPU, Device
from twotower.index.kinds import GPU_KINDS

GPU = Device(torch.device("cuda", 0))
FEW = replace(SMALL, width=16, num_indexed=(1_500,))


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


def figures(sizes: Sizes = FEW) -> dict[str, Figure]:
    return {figure.name: figure for figure in faiss_kinds(sizes, GPU, True)}


@pytest.mark.usefixtures("one_gpu")
def test_every_kind_is_built_searched_and_compared_with_the_exact_one() -> None:
    found = figures()
    names = ("build", "batch 1", "batch 32", "recall@100")
    assert list(found) == [f"{kind}, 1,500 items, {name}" for kind in GPU_KINDS for name in names]
    assert all(figure.value is not None and figure.value > 0 for figure in found.values())
    assert all((figure.value or 0) >= 0.95 for name, figure in found.items() if name.endswith("recall@100"))


def test_without_faiss_for_gpus_one_sentence_says_what_is_missing() -> None:
    (figure,) = figures().values()
    assert figure.value is None
    assert figure.note.startswith("faiss-cpu is installed, which cannot search on a GPU")


@pytest.mark.usefixtures("one_gpu")
def test_a_kind_that_faiss_does_not_have_is_left_out_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(faiss, "GpuIndexCagra")
    found = figures(replace(FEW, num_indexed=()))
    assert list(found) == ["gpu_cagra"]
    assert "has no CAGRA" in found["gpu_cagra"].note


def test_a_kind_that_does_not_fit_on_the_gpu_says_so_and_is_not_tried_with_more_items(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, free_bytes=1 << 20)
    found = figures(replace(FEW, num_indexed=(1_500, 15_000)))
    assert list(found) == [f"{kind}, 1,500 items" for kind in GPU_KINDS]
    assert all("0.0 GiB are free" in figure.note for figure in found.values())


@pytest.mark.usefixtures("one_gpu")
def test_more_items_than_the_time_allows_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.device_path.faiss_kinds.GPU_KINDS", ("gpu_flat16",))
    found = figures(replace(FEW, num_indexed=(1_500, 10**12)))
    assert "s are left" in found[f"gpu_flat16, {10**12:,} items"].note


def test_a_dry_run_says_what_a_gpu_would_be_asked_for() -> None:
    found = list(faiss_kinds(SMALL, ON_CPU, False))
    assert [figure.name for figure in found] == [f"{kind}, {num:,} items" for num in FULL.num_indexed for kind in GPU_KINDS]
    assert all(figure.value is None and "search 1 and 32 queries at once" in figure.note for figure in found)
