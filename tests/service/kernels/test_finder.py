"""An index that is searched by the kernels' op against the same on a processor."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from service.kernels.finder import DeviceFinder, on_device
from service.kernels.topk import top_k_reference, top_k_triton
from tests.interpreter import checked
from twotower.data.features import Floats
from twotower.device import ON_CPU, Device
from twotower.errors import ReleaseMismatch
from twotower.index.files import open_index, write_index
from twotower.index.kinds import IndexInfo, Kind
from twotower.index.search import Index

CPU, GPU = torch.device("cpu"), Device(torch.device("cuda"))
NUM_ROWS, WIDTH, K = 700, 20, 9


def drawn(*shape: int, seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.fixture
def vectors() -> Floats:
    vectors_NV = drawn(NUM_ROWS, WIDTH, seed=0)
    vectors_NV[600] = vectors_NV[5]  # a tie
    return vectors_NV


def opened(directory: Path, vectors: Floats, kind: Kind = "flat") -> Index:
    write_index(directory, vectors, WIDTH, kind)
    return open_index(directory, vectors, WIDTH, IndexInfo(kind=kind))


@pytest.mark.parametrize("op", [top_k_reference, top_k_triton])
def test_it_gives_the_same_answers(
    op: Callable[..., object], tmp_path: Path, vectors: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.kernels.finder.top_k", op)  # as on a GPU, interpreted
    index, finder = opened(tmp_path, vectors), DeviceFinder(vectors, CPU)
    ours, queries = Index("flat", vectors, finder, exact=finder), drawn(3, WIDTH, seed=1)
    mask = np.random.default_rng(2).random(NUM_ROWS) < 0.4
    without = [np.array([5, 7, 600]), np.zeros(0, np.int64), np.array([3])]
    for options in ({}, {"allowed": mask}, {"without": without}, {"without": [np.zeros(0, np.int64)] * 3}):
        for k in (1, K, NUM_ROWS + 1):
            with checked():
                rows, scores = ours.search(queries, k, **options)
            expected_rows, expected_scores = index.search(queries, k, **options)
            assert rows.tolist() == expected_rows.tolist()
            assert scores.tolist() == expected_scores.tolist()
    assert finder.num_bytes == 768 * 32 * 5  # padded; of float32 and of int8


def test_only_what_the_kernels_can_search_goes_there(tmp_path: Path, vectors: Floats, monkeypatch: pytest.MonkeyPatch) -> None:
    index = opened(tmp_path, vectors)
    assert on_device(index, ON_CPU) is index
    hnsw = opened(tmp_path, vectors, "hnsw")
    assert on_device(hnsw, GPU) is hnsw
    wide = Index("flat", drawn(3, 513, seed=3), index.finder, index.exact)
    assert on_device(wide, GPU) is wide
    made = list[torch.device]()

    def make(vectors_NV: Floats, device: torch.device) -> DeviceFinder:
        made.append(device)
        return DeviceFinder(vectors_NV, CPU)

    monkeypatch.setattr("service.kernels.finder.DeviceFinder", make)
    moved = on_device(index, GPU)
    assert made == [GPU.torch_device]
    assert moved.finder is moved.exact is not index.finder


def test_a_device_without_room_for_it_is_no_crash(tmp_path: Path, vectors: Floats, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("service.kernels.finder.DeviceFinder", fail)
    with pytest.raises(ReleaseMismatch, match="700 vectors do not fit on cuda"):
        on_device(opened(tmp_path, vectors), GPU)
