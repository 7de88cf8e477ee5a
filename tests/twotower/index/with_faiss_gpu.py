"""Run with the wheel of FAISS for GPUs first on the path, where no GPU is: its classes take what we give them.

An argument that a constructor does not know would be a TypeError, before FAISS looks for the GPU. So each call must end with
the word that there is no GPU.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss as faiss_module
import numpy as np
import torch

from tests.twotower.index.faiss_gpu import GPU_WHEEL, recorded, surface_of
from twotower.device import Device
from twotower.errors import EnvironmentProblem
from twotower.index import gpu as gpu_module
from twotower.index.files import open_index, write_index
from twotower.index.gpu import Gpu, GpuRows, gpu_of, prove, size_of
from twotower.index.gpu_memory import geometry_of
from twotower.index.kinds import FAISS, GpuKind, IndexInfo

faiss: Any = faiss_module  # its stubs are of faiss-cpu
GPU, VECTORS = Device(torch.device("cuda", 0)), np.random.default_rng(0).standard_normal((300, 14)).astype(np.float32)


def problem_of(call: Callable[[], object]) -> str:
    """What a call says that cannot succeed here."""
    try:
        call()
    except EnvironmentProblem as problem:
        return str(problem)
    raise AssertionError("it succeeded")


def save(kind: GpuKind, directory: Path) -> None:
    """What the nightly job would have copied from the GPU."""
    shape = geometry_of(kind, *size_of(VECTORS, 12))
    index = faiss.IndexIVFPQ(faiss.IndexFlatL2(shape.width), shape.width, shape.lists, shape.codes, 8)
    rows = GpuRows(VECTORS, 12, shape).all()
    index.train(rows)
    index.add(rows)
    faiss.write_index(index, str(directory / FAISS))


def main(directory: Path) -> None:
    """Raises for whatever is not as the product takes it."""
    assert surface_of(Path(faiss.__file__).with_name("swigfaiss.py")) == recorded()[GPU_WHEEL]
    assert faiss.INDICES_32_BIT == 2
    assert faiss.get_num_gpus() == 0, "a machine with a GPU runs the tests marked gpu"
    assert "FAISS sees 0 GPUs" in problem_of(lambda: gpu_of("gpu_ivfpq", GPU))
    assert "has no CAGRA" in problem_of(lambda: gpu_of("gpu_cagra", GPU))

    gpu_module.gpu_of = lambda kind, device: Gpu(faiss, 0, 1 << 40)
    no_gpu = "Invalid GPU device 0"
    assert no_gpu in problem_of(lambda: write_index(directory, VECTORS, 12, "gpu_ivfpq", GPU))
    assert no_gpu in problem_of(lambda: open_index(directory, VECTORS, 12, IndexInfo(kind="gpu_flat16"), GPU))
    save("gpu_ivfpq", directory)
    assert no_gpu in problem_of(lambda: open_index(directory, VECTORS, 12, IndexInfo(kind="gpu_ivfpq", effort=8), GPU))

    lost = faiss.index_cpu_to_all_gpus(faiss.read_index(str(directory / FAISS)))
    assert "has 0 rows of 300" in problem_of(lambda: prove(lost, 300, "moved"))

    graph = faiss.IndexHNSWCagra(16, 32, faiss.METRIC_L2)
    graph.add(np.zeros((70, 16), np.float32))
    faiss.write_index(graph, str(directory / "graph"))
    assert type(faiss.read_index(str(directory / "graph"), faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE)).__name__ == "IndexHNSWCagra"
    assert faiss.SearchParametersIVF(nprobe=7).nprobe == 7


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(Path(made))
    sys.stdout.write("as recorded\n")
