"""The kinds of index that FAISS searches on a GPU. They name candidates; scores are exact.

What FAISS 1.15 does without saying so, and what is done here about it:

- `index_cpu_to_all_gpus` gives an empty index where there is no GPU. The number of GPUs is asked first, and the number of rows
  after every move.
- `GpuIndexFlat` and `GpuIndexIVFPQ` take a selector of rows and do not look at it. So they get none: more rows are asked for,
  and those that are not allowed are dropped. Where too few remain, `Index.search` scans exactly.
- `GpuIndexCagra` looks at its selector. But few allowed rows may lie where no walk leads, so they are searched exactly.
- `GpuIndexCagra` reads its rows from the index that it was copied from, which must live as long.
- A StandardGpuResources serves one caller at a time, so each open index has one of its own, and a lock.

N: items, V: vector width, D: embedding width, W: columns of a row in the index, Q: queries, C: candidates
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from twotower.data.features import Floats, Ints
from twotower.device import Device
from twotower.errors import EnvironmentProblem, ReleaseMismatch
from twotower.index.distance import Lengthened, lengthened_queries
from twotower.index.gpu_memory import (
    BUILD_DEGREE,
    CODE_BITS,
    CODES,
    GRAPH_DEGREE,
    OTHER_KIND,
    SAMPLES,
    TEMPORARY_BYTES,
    Geometry,
    built_bytes,
    geometry_of,
    gib,
    held_bytes,
)
from twotower.index.kinds import GpuKind
from twotower.index.scan import Mask

MAX_RESULTS = 2048  # that a GPU index of FAISS can return
FEWEST_LINKED = 1_000  # items: a graph of CAGRA gives each row 64 links, and is built from one with 128
# Candidates per result: float16 rounds little, codes of a byte round much, and CAGRA computes distances in float32.
_REFINED: dict[GpuKind, int] = {"gpu_flat16": 2, "gpu_ivfpq": 10, "gpu_cagra": 2}
_LEAST_SHARE = 0.5  # of rows that a filter allows, for a walk along the graph of CAGRA to find them
_SAVED_AS: dict[GpuKind, str] = {"gpu_ivfpq": "IndexIVFPQ", "gpu_cagra": "IndexHNSWCagra"}
_WIDE_TABLES = 48  # codes of a row; the tables of more codes fit into shared memory only in float16


@dataclass(frozen=True, slots=True)
class Gpu:
    """FAISS on a machine with a GPU, the number of the GPU, and its free bytes."""

    faiss: Any
    number: int
    free_bytes: int


def require_gpu(kind: GpuKind, device: Device) -> None:
    """EnvironmentProblem in one sentence when an index of this kind cannot be built and searched on the device."""
    gpu_of(kind, device)


def gpu_of(kind: GpuKind, device: Device) -> Gpu:
    """The GPU that an index of this kind can be built and searched on; EnvironmentProblem in one sentence when it cannot."""
    if not device.is_gpu:
        raise EnvironmentProblem(f"the index kind {kind} needs a GPU: use --device cuda, or {OTHER_KIND}")
    package = "twotower[cagra]" if kind == "gpu_cagra" else "twotower[gpu]"
    constraints = f"deploy/constraints_{'cagra' if kind == 'gpu_cagra' else 'gpu'}.txt"
    install = f"pip install -c {constraints} '{package}'"
    try:
        import faiss
    except ModuleNotFoundError:
        raise EnvironmentProblem(f"the index kind {kind} needs FAISS for GPUs: {install}") from None
    except RuntimeError as error:  # a library of CUDA is missing, and it says which
        raise EnvironmentProblem(f"FAISS cannot be imported ({error}): {install}") from error
    if not hasattr(faiss, "StandardGpuResources"):
        raise EnvironmentProblem(
            f"faiss-cpu is installed, which cannot search on a GPU, and the index kind is {kind}: pip uninstall faiss-cpu, "
            f"then {install}"
        )
    if kind == "gpu_cagra" and not hasattr(faiss, "GpuIndexCagra"):
        raise EnvironmentProblem(
            f"faiss-gpu is installed, which has no CAGRA, and the index kind is {kind}: pip uninstall faiss-gpu, then {install}"
        )
    number, found = device.torch_device.index or 0, faiss.get_num_gpus()
    if number >= found:
        raise EnvironmentProblem(
            f"the index kind {kind} needs {device.torch_device}, and FAISS sees {found} GPUs: check the driver, or {OTHER_KIND}"
        )
    return Gpu(faiss, number, free_bytes(device))


def free_bytes(device: Device) -> int:
    """Memory of a GPU that nobody has taken. What torch keeps for itself counts as taken, because FAISS cannot use it."""
    return int(torch.cuda.mem_get_info(device.torch_device)[0])


def check_room(kind: GpuKind, needed: int, gpu: Gpu) -> None:
    """EnvironmentProblem when a GPU cannot hold an index."""
    if needed > gpu.free_bytes:
        raise EnvironmentProblem(
            f"an index of the kind {kind} would take {gib(needed)} on the GPU, and {gib(gpu.free_bytes)} are free: free memory "
            f"on it, or {OTHER_KIND}"
        )


@dataclass(frozen=True, slots=True)
class OnGpu:
    """An index on a GPU, and what must live as long: its resources, and what CAGRA reads its rows from."""

    index: Any
    kept: tuple[Any, ...]


class GpuFinder:
    """An index of FAISS on a GPU. `effort` is the number of lists searched (IVF-PQ), or of nearest rows kept (CAGRA)."""

    def __init__(self, kind: GpuKind, gpu: Gpu, moved: OnGpu, shape: Geometry, width: int, effort: int, num_bytes: int) -> None:
        self.kind, self.effort, self.num_bytes = kind, effort, num_bytes
        self._faiss, self._index, self._shape, self._width = gpu.faiss, moved.index, shape, width
        self._kept = moved.kept
        self._one_caller = threading.Lock()

    def find(self, queries_QV: Floats, k: int, allowed: Mask | None, without: Sequence[Ints] = ()) -> tuple[Ints, Ints]:
        """The nearest allowed rows that FAISS finds, without the rows that each query leaves out: some of them, or none."""
        num_rows, selector = self._index.ntotal, None
        wanted = _REFINED[self.kind] * k + max((len(rows) for rows in without), default=0)
        if allowed is not None:
            num_allowed = int(np.count_nonzero(allowed))
            if self.kind != "gpu_cagra":
                wanted = -(-wanted * num_rows // max(num_allowed, 1))
            elif num_allowed < _LEAST_SHARE * num_rows:
                return np.zeros(0, np.int64), np.zeros(0, np.int64)
            else:
                selector = self._faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        wanted = min(wanted, num_rows, MAX_RESULTS)
        queries_QW = self._queries(queries_QV)
        with self._one_caller:
            _, rows_QC = self._index.search(queries_QW, wanted, params=self._params(wanted, selector))
        kept_QC = (rows_QC >= 0) & (rows_QC < num_rows)  # CAGRA fills short answers with a number beyond all rows
        if allowed is not None:
            kept_QC &= allowed[np.where(kept_QC, rows_QC, 0)]
        for query, rows in enumerate(without):
            kept_QC[query] &= ~np.isin(rows_QC[query], rows)
        query_C, place_C = np.nonzero(kept_QC)
        pair_C = np.unique(query_C * num_rows + rows_QC[query_C, place_C])  # a graph may be left and entered again
        return pair_C // num_rows, pair_C % num_rows

    def _queries(self, queries_QV: Floats) -> Floats:
        """Queries of length 1, so that no distance leaves the range of float16."""
        queries_QW = padded(lengthened_queries(queries_QV, self._width, self._shape.block), self._shape.width)
        norm_Q = np.maximum(np.linalg.norm(queries_QW, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return np.ascontiguousarray(queries_QW / norm_Q, np.float32)

    def _params(self, wanted: int, selector: Any) -> Any:
        match self.kind:
            case "gpu_flat16":
                return None
            case "gpu_ivfpq":
                return self._faiss.SearchParametersIVF(nprobe=min(self.effort, self._shape.lists, MAX_RESULTS))
            case "gpu_cagra":
                return self._faiss.SearchParametersCagra(sel=selector, itopk_size=max(self.effort, wanted))


def write_gpu(file: Path, vectors_NV: Floats, width: int, kind: GpuKind, device: Device) -> None:
    """Build an index on the GPU, copy it to the CPU and write it. `gpu_flat16` has no file, because it is the vectors' own.

    EnvironmentProblem when the GPU cannot build it.
    """
    gpu = gpu_of(kind, device)
    check_room(kind, built_bytes(kind, *size_of(vectors_NV, width)), gpu)
    if kind == "gpu_flat16":
        return
    shape = geometry_of(kind, *size_of(vectors_NV, width))
    rows = GpuRows(vectors_NV, width, shape)
    with on_gpu(f"building {kind}"):
        built = _trained_lists(gpu, rows) if kind == "gpu_ivfpq" else _linked_rows(gpu, rows)
        prove(built.index, len(vectors_NV), "built on the GPU")
        saved = gpu.faiss.index_gpu_to_cpu(built.index)
        prove(saved, len(vectors_NV), "copied from the GPU")
    try:
        gpu.faiss.write_index(saved, str(file))
    except RuntimeError as error:  # its only kind of error: the disk is full, or cannot be written
        raise OSError(f"cannot write {file}: {error}") from error


def open_gpu(file: Path, vectors_NV: Floats, width: int, kind: GpuKind, effort: int, device: Device) -> GpuFinder:
    """Move the index of these vectors to the GPU, for one caller at a time.

    EnvironmentProblem when the GPU cannot hold it; ReleaseMismatch for another kind or size. Verify the file's hash first:
    FAISS trusts files.
    """
    gpu, shape = gpu_of(kind, device), geometry_of(kind, *size_of(vectors_NV, width))
    needed = held_bytes(kind, *size_of(vectors_NV, width))
    check_room(kind, needed, gpu)
    saved = None if kind == "gpu_flat16" else _read(gpu, file, vectors_NV, kind, shape)
    resources = resources_of(gpu)
    with on_gpu(f"moving {kind}"):
        if saved is None:
            index = _flat16(gpu, resources, GpuRows(vectors_NV, width, shape))
        else:
            index = gpu.faiss.index_cpu_to_gpu(resources, gpu.number, saved, _moving(gpu, shape))
        prove(index, len(vectors_NV), "moved to the GPU")
    kept = (resources, saved) if kind == "gpu_cagra" else (resources,)
    return GpuFinder(kind, gpu, OnGpu(index, kept), shape, width, effort, needed)


def size_of(vectors_NV: Floats, width: int) -> tuple[int, int, int]:
    """The size that the formulas of memory take: items, columns of a vector, and those of the embedding."""
    return len(vectors_NV), vectors_NV.shape[1], width


class GpuRows:
    """Lengthened rows as an index on a GPU takes them: padded, and scaled so that float16 can hold them."""

    def __init__(self, vectors_NV: Floats, width: int, shape: Geometry) -> None:
        self._lengthened, self._num_rows, self.shape = Lengthened(vectors_NV, width, shape.block), len(vectors_NV), shape
        norm = self._lengthened.norm
        self._scale = np.float32(2.0 ** -np.ceil(np.log2(norm)) if norm > 0 else 1)  # a power of two changes no digit

    def __len__(self) -> int:
        return self._num_rows

    def parts(self) -> Iterator[Floats]:
        """All rows [C, W], in order and in parts."""
        for part_CW in self._lengthened.parts():
            yield padded(part_CW * self._scale, self.shape.width)

    def some(self, row_C: Ints) -> Floats:
        """These rows, [C, W]."""
        return padded(self._lengthened.rows(row_C) * self._scale, self.shape.width)

    def all(self) -> Floats:
        """All rows, [N, W]: a copy in memory."""
        rows_NW, start = np.empty((len(self), self.shape.width), np.float32), 0
        for part_CW in self.parts():
            rows_NW[start : start + len(part_CW)] = part_CW
            start += len(part_CW)
        return rows_NW


def padded(rows_CW: Floats, width: int) -> Floats:
    """Rows with columns of zeros added, up to `width`."""
    return np.pad(rows_CW, ((0, 0), (0, width - rows_CW.shape[1])))


def resources_of(gpu: Gpu) -> Any:
    """Resources of an index of its own, with temporary memory of the size that `held_bytes` counts."""
    resources = gpu.faiss.StandardGpuResources()
    resources.setTempMemory(TEMPORARY_BYTES)
    return resources


def prove(index: Any, num_items: int, what: str) -> None:
    """EnvironmentProblem unless an index has all rows. FAISS may lose them without an error."""
    if index.ntotal != num_items:
        raise EnvironmentProblem(f"the index that was {what} has {index.ntotal:,} rows of {num_items:,}: check the GPU's driver")


@contextmanager
def on_gpu(what: str) -> Iterator[None]:
    """EnvironmentProblem in place of the RuntimeError that FAISS raises, such as for a lack of memory."""
    try:
        yield
    except RuntimeError as error:
        raise EnvironmentProblem(f"{what} failed on the GPU: {' '.join(str(error).split())}") from error


def _flat16(gpu: Gpu, resources: Any, rows: GpuRows) -> Any:
    config = gpu.faiss.GpuIndexFlatConfig()
    config.device, config.useFloat16 = gpu.number, True
    index = gpu.faiss.GpuIndexFlatIP(resources, rows.shape.width, config)
    index.add(rows.all())  # all at once: in parts, each part would copy the rows before it, and both copies need room
    return index


def _trained_lists(gpu: Gpu, rows: GpuRows) -> OnGpu:
    """An IVF-PQ index, trained on a sample and filled."""
    faiss, shape, resources = gpu.faiss, rows.shape, resources_of(gpu)
    config = faiss.GpuIndexIVFPQConfig()
    config.device, config.indicesOptions = gpu.number, faiss.INDICES_32_BIT
    config.useFloat16LookupTables = shape.codes > _WIDE_TABLES
    index = faiss.GpuIndexIVFPQ(resources, shape.width, shape.lists, shape.codes, CODE_BITS, faiss.METRIC_L2, config)
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1  # else FAISS warns about small catalogues
    num_samples = max(SAMPLES * shape.lists, CODES)
    chosen = np.random.default_rng(0).permutation(len(rows))[:num_samples]
    sample_CW = rows.some(np.sort(chosen))
    index.train(np.resize(sample_CW, (max(len(sample_CW), CODES), shape.width)))  # few rows are repeated
    for part_CW in rows.parts():
        index.add(part_CW)
    return OnGpu(index, (resources,))


def _linked_rows(gpu: Gpu, rows: GpuRows) -> OnGpu:
    """A graph of CAGRA. It has a pointer to the rows and no copy, and reads them when it is copied to the CPU."""
    if len(rows) < FEWEST_LINKED:
        raise EnvironmentProblem(
            f"the index kind gpu_cagra is for {FEWEST_LINKED:,} items or more, not {len(rows):,}: {OTHER_KIND}"
        )
    faiss, resources, rows_NW = gpu.faiss, resources_of(gpu), rows.all()
    config = faiss.GpuIndexCagraConfig()
    config.device, config.graph_degree, config.intermediate_graph_degree = gpu.number, GRAPH_DEGREE, BUILD_DEGREE
    index = faiss.GpuIndexCagra(resources, rows.shape.width, faiss.METRIC_L2, config)
    index.train(rows_NW)
    return OnGpu(index, (resources, rows_NW))


def _moving(gpu: Gpu, shape: Geometry) -> Any:
    options = gpu.faiss.GpuClonerOptions()
    options.indicesOptions, options.useFloat16 = gpu.faiss.INDICES_32_BIT, shape.codes > _WIDE_TABLES
    return options


def _read(gpu: Gpu, file: Path, vectors_NV: Floats, kind: GpuKind, shape: Geometry) -> Any:
    faiss = gpu.faiss
    try:
        saved = faiss.read_index(str(file), faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE)
    except RuntimeError as error:
        raise _mismatch(file, str(error)) from error
    if type(saved).__name__ != _SAVED_AS[kind] or saved.metric_type != faiss.METRIC_L2:
        raise _mismatch(file, f"it is {type(saved).__name__}, not {_SAVED_AS[kind]} of METRIC_L2")
    if (saved.ntotal, saved.d) != (len(vectors_NV), shape.width):
        raise _mismatch(file, f"it holds {saved.ntotal} rows of width {saved.d}, made for other vectors than {vectors_NV.shape}")
    return saved


def _mismatch(file: Path, what: str) -> ReleaseMismatch:
    return ReleaseMismatch(f"{file}: {what}. Publish it again with `twotower embed`.")
