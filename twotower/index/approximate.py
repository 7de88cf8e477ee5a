"""The approximate kinds, by FAISS: compressed lists (IVF-PQ) and a graph (HNSW). They name candidates; scores are exact.

N: items, V: vector width, D: embedding width, W: width in pairs, Q: queries, C: candidates
"""

from pathlib import Path
from typing import Any, Literal

import faiss as faiss_module
import numpy as np

from twotower.data.features import Floats, Ints
from twotower.errors import ReleaseMismatch
from twotower.index.distance import Lengthened, layout, lengthened_queries
from twotower.index.scan import Mask

faiss: Any = faiss_module  # its stubs describe the C++ constructors, not what its Python wrappers take

Kind = Literal["ivfpq", "hnsw"]
CLASSES: dict[Kind, str] = {"ivfpq": "IndexIVFPQFastScan", "hnsw": "IndexHNSWSQ"}
REFINED = 10  # candidates per result
_LINKS = 32
_BUILD_EFFORT = 80  # candidates that a new row's links are chosen from
_PQ_BITS = 4
_SAMPLES = 64  # rows per list to train the lists on


class FaissFinder:
    """An index of FAISS. `effort` is the number of lists searched (IVF-PQ) or of nearest rows kept (HNSW): more finds more."""

    def __init__(self, kind: Kind, index: Any, width: int, num_bytes: int, effort: int) -> None:
        self.kind, self.num_bytes, self.effort = kind, num_bytes, effort
        self._index, self._width = index, width

    def find(self, queries_QV: Floats, k: int, allowed: Mask | None) -> tuple[Ints, Ints]:
        """The nearest allowed rows that FAISS finds: some of them, or none when the mask allows few rows."""
        wanted = min(REFINED * k, self._index.ntotal)
        selector = None if allowed is None else faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        if self.kind == "ivfpq":
            params = faiss.SearchParametersIVF(sel=selector, nprobe=self.effort)
        else:
            params = faiss.SearchParametersHNSW(sel=selector, efSearch=max(self.effort, wanted))
        _, rows_QC = self._index.search(lengthened_queries(queries_QV, self._width), wanted, params=params)
        query_C, column_C = np.nonzero(rows_QC >= 0)
        return query_C, rows_QC[query_C, column_C]


def write_faiss(file: Path, vectors_NV: Floats, width: int, kind: Kind) -> None:
    """Train an index on a sample, fill it and write it. Memory: the index and a batch."""
    num_items, rows = len(vectors_NV), Lengthened(vectors_NV, width)
    lists = max(int(num_items**0.5), 1)
    if kind == "ivfpq":
        index = faiss.IndexIVFPQFastScan(faiss.IndexFlatL2(rows.width), rows.width, lists, rows.width // 2, _PQ_BITS)
        index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1  # else FAISS warns about small catalogues
    else:
        index = faiss.IndexHNSWSQ(rows.width, faiss.ScalarQuantizer.QT_8bit, _LINKS)
        index.hnsw.efConstruction = _BUILD_EFFORT
    num_samples = max(_SAMPLES * lists, 1 << _PQ_BITS)
    chosen = np.random.default_rng(0).permutation(num_items)[:num_samples]
    sample_CW = rows.rows(np.sort(chosen))
    index.train(np.resize(sample_CW, (max(len(sample_CW), 1 << _PQ_BITS), rows.width)))  # few rows are repeated
    for part_CW in rows.parts():
        index.add(part_CW)
    try:
        faiss.write_index(index, str(file))
    except RuntimeError as error:  # its only kind of error: the disk is full, or cannot be written
        raise OSError(f"cannot write {file}: {error}") from error


def read_faiss(file: Path, vectors_NV: Floats, width: int, kind: Kind, effort: int) -> FaissFinder:
    """The index of these vectors; ReleaseMismatch for another kind or size. Verify the file's hash first: FAISS trusts files."""
    try:
        index = faiss.read_index(str(file))
    except RuntimeError as error:
        raise _mismatch(file, str(error)) from error
    _, paired = layout(vectors_NV.shape[1], width)
    if type(index).__name__ != CLASSES[kind] or index.metric_type != faiss.METRIC_L2:
        raise _mismatch(file, f"it is {type(index).__name__}, not {CLASSES[kind]} of METRIC_L2")
    if (index.ntotal, index.d) != (len(vectors_NV), paired):
        raise _mismatch(file, f"it holds {index.ntotal} rows of width {index.d}, made for other vectors than {vectors_NV.shape}")
    return FaissFinder(kind, index, width, file.stat().st_size, effort)


def _mismatch(file: Path, what: str) -> ReleaseMismatch:
    return ReleaseMismatch(f"{file}: {what}. Publish it again with `twotower embed`.")
