"""FAISS for GPUs without a GPU: the recorded surface of its wheels, and a stand-in on top of faiss-cpu that has this surface.

`python -m tests.twotower.index.faiss_gpu PACKAGE=SWIGFAISS_PY ...` records the surface again: PACKAGE is the name of a wheel,
SWIGFAISS_PY its file faiss/swigfaiss.py.
"""

import ast
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss as faiss_module
import msgspec
import numpy as np
import pytest
import torch

from twotower.data.features import Floats, Ints
from twotower.device import Device
from twotower.index import gpu as gpu_module

faiss: Any = faiss_module
GPU_WHEEL, CAGRA_WHEEL = "faiss-gpu", "faiss-gpu-cuvs"  # 1.15.1
SURFACE = Path(__file__).with_name("faiss_gpu_surface.json")
FUNCTIONS = ("get_num_gpus", "index_cpu_to_gpu", "index_gpu_to_cpu", "read_index", "write_index")
CONSTANTS = ("INDICES_32_BIT", "IO_FLAG_SKIP_PRECOMPUTE_TABLE", "METRIC_L2")
CLASSES = (
    "ClusteringParameters",
    "GpuClonerOptions",
    "GpuIndex",
    "GpuIndexCagra",
    "GpuIndexCagraConfig",
    "GpuIndexConfig",
    "GpuIndexFlat",
    "GpuIndexFlatConfig",
    "GpuIndexFlatIP",
    "GpuIndexIVF",
    "GpuIndexIVFConfig",
    "GpuIndexIVFPQ",
    "GpuIndexIVFPQConfig",
    "IDSelector",
    "IDSelectorBitmap",
    "Index",
    "IndexIVFInterface",
    "Level1Quantizer",
    "ProductQuantizer",
    "SearchParameters",
    "SearchParametersCagra",
    "SearchParametersIVF",
    "StandardGpuResources",
)
MAX_RESULTS = 2048


class ClassSurface(msgspec.Struct, frozen=True):
    """A class of a wheel: the classes above it that were recorded too, its attributes, and the parameters of its methods."""

    above: list[str]
    attributes: list[str]
    methods: dict[str, list[str]]


class Surface(msgspec.Struct, frozen=True):
    """What of a wheel the product may use."""

    classes: dict[str, ClassSurface]
    functions: dict[str, list[str]]
    constants: list[str]

    def names_of(self, name: str) -> set[str]:
        """Attributes and methods of a class, inherited ones included."""
        found = self.classes[name]
        return {*found.attributes, *found.methods}.union(*(self.names_of(above) for above in found.above))


def recorded() -> dict[str, Surface]:
    """The surface of each wheel."""
    return msgspec.json.decode(SURFACE.read_bytes(), type=dict[str, Surface])


def surface_of(swigfaiss: Path) -> Surface:
    """The surface of a wheel, read from its source without importing it."""
    tree = ast.parse(swigfaiss.read_text())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in CLASSES}
    functions = {
        node.name: _parameters(node) for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in FUNCTIONS
    }
    assigned = {ast.unparse(node.targets[0]) for node in tree.body if isinstance(node, ast.Assign)}
    found = {
        name: ClassSurface(
            sorted(ast.unparse(base) for base in node.bases if ast.unparse(base) in classes),
            sorted(ast.unparse(line.targets[0]) for line in node.body if isinstance(line, ast.Assign) and _is_attribute(line)),
            {line.name: _parameters(line) for line in sorted(_methods(node), key=lambda line: line.name)},
        )
        for name, node in sorted(classes.items())
    }
    return Surface(found, functions, [name for name in CONSTANTS if name in assigned])


def _is_attribute(line: ast.Assign) -> bool:
    return ast.unparse(line.value).startswith("property(") and "thisown" not in ast.unparse(line)


def _methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [line for line in node.body if isinstance(line, ast.FunctionDef)]


def _parameters(function: ast.FunctionDef) -> list[str]:
    names = [argument.arg for argument in function.args.args if argument.arg != "self"]
    return [*names, "*"] if function.args.vararg else names


class OneCaller:
    """Notices two threads that use one StandardGpuResources at a time, which FAISS does not allow."""

    def __init__(self) -> None:
        self._busy = threading.Lock()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        assert self._busy.acquire(blocking=False), "two callers at a time"
        try:
            yield
        finally:
            self._busy.release()


class Settings:
    """Takes only the attributes that the recorded class has. A SWIG class takes any other without a word."""

    def __setattr__(self, name: str, value: object) -> None:
        known = everything().names_of(type(self).__name__)
        assert name in known, f"{type(self).__name__} has no {name}"
        object.__setattr__(self, name, value)


def everything() -> Surface:
    """The surface of the wheel with CAGRA, which has all of the other's too."""
    return recorded()[CAGRA_WHEEL]


class GpuIndexFlatConfig(Settings):
    pass


class GpuIndexIVFPQConfig(Settings):
    pass


class GpuIndexCagraConfig(Settings):
    pass


class GpuClonerOptions(Settings):
    pass


class StandardGpuResources:
    def __init__(self) -> None:
        self.one_caller, self.temporary_bytes = OneCaller(), 1536 << 20

    def setTempMemory(self, size: int) -> None:
        self.temporary_bytes = size


class SearchParametersCagra(faiss.SearchParameters):  # type: ignore[misc]
    def __init__(self, sel: Any = None, itopk_size: int = 64) -> None:
        faiss.SearchParameters.__init__(self)
        self.selector, self.itopk_size = sel, itopk_size


class GpuIndex:
    """An index of faiss-cpu in the clothes of one on a GPU. Flat and IVF-PQ do not look at a selector, as on a GPU."""

    def __init__(self, resources: StandardGpuResources, on_cpu: Any) -> None:
        self.resources, self.on_cpu = resources, on_cpu

    @property
    def ntotal(self) -> int:
        return int(self.on_cpu.ntotal)

    def add(self, rows_NW: Floats) -> None:
        with self.resources.one_caller():
            self.on_cpu.add(rows_NW)

    def train(self, rows_NW: Floats) -> None:
        with self.resources.one_caller():
            self.on_cpu.train(rows_NW)

    def search(self, queries_QW: Floats, k: int, *, params: Any = None) -> tuple[Floats, Ints]:
        if k > MAX_RESULTS:
            raise RuntimeError(f"GPU index only supports min/max-K selection up to {MAX_RESULTS} (requested {k})")
        with self.resources.one_caller():
            return self._search(queries_QW, k, params)

    def _search(self, queries_QW: Floats, k: int, params: Any) -> tuple[Floats, Ints]:
        found: tuple[Floats, Ints] = self.on_cpu.search(queries_QW, k)
        return found


class GpuIndexFlatIP(GpuIndex):
    def __init__(self, resources: StandardGpuResources, width: int, config: Any) -> None:
        assert config.useFloat16
        super().__init__(resources, faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT))


class GpuIndexIVFPQ(GpuIndex):
    def __init__(
        self, resources: StandardGpuResources, width: int, lists: int, codes: int, bits: int, metric: int, config: Any
    ) -> None:
        assert (bits, metric, width % codes) == (8, faiss.METRIC_L2, 0)
        super().__init__(resources, faiss.IndexIVFPQ(faiss.IndexFlatL2(width), width, lists, codes, bits))
        self.cp, self.pq = self.on_cpu.cp, self.on_cpu.pq

    def _search(self, queries_QW: Floats, k: int, params: Any) -> tuple[Floats, Ints]:
        found: tuple[Floats, Ints] = self.on_cpu.search(queries_QW, k, params=faiss.SearchParametersIVF(nprobe=params.nprobe))
        return found


class GpuIndexCagra(GpuIndex):
    """Has a pointer to the rows that it was trained with, or to the index that it was copied from, and no copy of them."""

    def __init__(self, resources: StandardGpuResources, width: int, metric: int, config: Any) -> None:
        super().__init__(resources, faiss.IndexHNSWCagra(width, config.graph_degree // 2, metric))

    def train(self, rows_NW: Floats) -> None:
        self.add(rows_NW)
        self.source = weakref.ref(rows_NW)

    def _search(self, queries_QW: Floats, k: int, params: Any) -> tuple[Floats, Ints]:
        assert params.itopk_size >= k
        assert self.source() is not None, "its rows are gone"
        how = faiss.SearchParametersHNSW(sel=params.selector, efSearch=params.itopk_size)
        distances_QK, rows_QK = self.on_cpu.search(queries_QW, k, params=how)
        rows_QK[rows_QK < 0] = np.iinfo(np.uint32).max  # what fills short answers in some versions
        return distances_QK, rows_QK


def index_cpu_to_gpu(resources: StandardGpuResources, device: int, index: Any, options: Any) -> GpuIndex:
    assert device == 0
    if isinstance(index, faiss.IndexHNSWCagra):
        graph = GpuIndexCagra.__new__(GpuIndexCagra)
        GpuIndex.__init__(graph, resources, faiss.clone_index(index))
        graph.source = weakref.ref(index)
        return graph
    moved = GpuIndexIVFPQ.__new__(GpuIndexIVFPQ)
    GpuIndex.__init__(moved, resources, index)
    return moved


def index_gpu_to_cpu(index: GpuIndex) -> Any:
    if isinstance(index, GpuIndexCagra):
        assert index.source() is not None, "its rows are gone"
    return index.on_cpu


STANDING_IN = {
    "StandardGpuResources": StandardGpuResources,
    "GpuIndexFlatConfig": GpuIndexFlatConfig,
    "GpuIndexIVFPQConfig": GpuIndexIVFPQConfig,
    "GpuIndexCagraConfig": GpuIndexCagraConfig,
    "GpuClonerOptions": GpuClonerOptions,
    "GpuIndexFlatIP": GpuIndexFlatIP,
    "GpuIndexIVFPQ": GpuIndexIVFPQ,
    "GpuIndexCagra": GpuIndexCagra,
    "SearchParametersCagra": SearchParametersCagra,
    "index_cpu_to_gpu": index_cpu_to_gpu,
    "index_gpu_to_cpu": index_gpu_to_cpu,
    "INDICES_32_BIT": 2,
    "get_num_gpus": lambda: 1,
}


def stand_in(monkeypatch: pytest.MonkeyPatch, free_bytes: int = 80 << 30) -> None:
    """Make faiss-cpu look like faiss-gpu-cuvs on a machine with one GPU, which has so much free memory."""
    for name, value in STANDING_IN.items():
        monkeypatch.setattr(faiss, name, value, raising=False)
    free_on_gpu(monkeypatch, free_bytes)


def free_on_gpu(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    """Let the GPU have so much free memory."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free_bytes, 80 << 30))


def pretend_that_the_cpu_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `stand_in`, and an index of a GPU may be opened although the device is the CPU, on which the model runs."""
    stand_in(monkeypatch)
    real = gpu_module.gpu_of
    monkeypatch.setattr(gpu_module, "gpu_of", lambda kind, device: real(kind, Device(torch.device("cuda", 0))))


def main(arguments: Sequence[str]) -> None:
    """Record the surface of the wheels."""
    surfaces = {}
    for argument in arguments:
        name, _, file = argument.partition("=")
        surfaces[name] = surface_of(Path(file))
    text = msgspec.json.encode(surfaces).decode()
    SURFACE.write_text(text.replace("]}},", "]}},\n").replace('"classes":{', '"classes":{\n') + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
