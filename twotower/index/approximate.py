"""Approximate kinds, by FAISS: compressed lists (IVF-PQ) and a graph (HNSW). They name more rows than asked; scores are exact.

Largest inner product is nearest neighbour once every row has one more column that makes all of them equally long (Bachrach et
al. 2014), and what compresses and links rows by distance needs that: with the inner product itself, lists and links go by length.

Codes are of pairs of columns. Popularity and signals, whose range is large, and the column of the length have a pair each.

N: items, V: vector width, D: embedding width, W: width in pairs, Q: queries, C: candidates
"""

from pathlib import Path
from typing import Any, Literal

import faiss as faiss_module
import numpy as np

from twotower.errors import ReleaseMismatch
from twotower.features import Floats, Ints
from twotower.index.scan import Mask

faiss: Any = faiss_module  # its stubs describe the C++ constructors, not what its Python wrappers take

Kind = Literal["ivfpq", "hnsw"]
CLASSES: dict[Kind, str] = {"ivfpq": "IndexIVFPQFastScan", "hnsw": "IndexHNSWSQ"}
REFINED = 10  # candidates per result
_LINKS = 32
_BUILD_EFFORT = 80  # candidates a new row's links are chosen from
_PQ_BITS = 4
_SAMPLES = 64  # rows per list that the lists are trained on
_ADDED_AT_ONCE = 65_536


class FaissFinder:
    """An index of FAISS. More `effort` finds more: it is lists looked into, or the number of nearest rows the walk keeps."""

    def __init__(self, kind: Kind, index: Any, columns_V: Ints, num_bytes: int, effort: int) -> None:
        self.kind, self.num_bytes, self.effort = kind, num_bytes, effort
        self._index, self._columns_V = index, columns_V

    def find(self, queries_QV: Floats, k: int, allowed: Mask | None) -> tuple[Ints, Ints]:
        """The nearest of the allowed rows [N], some of them or, of a hopeless mask, none."""
        wanted = min(REFINED * k, self._index.ntotal)
        query_QW = np.zeros((len(queries_QV), self._index.d), np.float32)
        query_QW[:, self._columns_V] = queries_QV
        selector = None if allowed is None else faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        if self.kind == "ivfpq":
            params = faiss.SearchParametersIVF(sel=selector, nprobe=self.effort)
        else:
            params = faiss.SearchParametersHNSW(sel=selector, efSearch=max(self.effort, wanted))
        _, rows_QC = self._index.search(query_QW, wanted, params=params)
        query_C, column_C = np.nonzero(rows_QC >= 0)
        return query_C, rows_QC[query_C, column_C]


def write_faiss(file: Path, vectors_NV: Floats, width: int, kind: Kind) -> None:
    """Train an index on a sample, fill it and write it; memory is the index and a batch."""
    num_items = len(vectors_NV)
    columns_V, paired = layout(vectors_NV.shape[1], width)
    # All rows moved alike keep their order for every query, and are shorter around their mean.
    mean_V = vectors_NV.mean(0, dtype=np.float64).astype(np.float32)
    longest = max(squared_norms(vectors_NV[part] - mean_V).max() for part in _parts(num_items))
    lists = max(int(num_items**0.5), 1)
    if kind == "ivfpq":
        index = faiss.IndexIVFPQFastScan(faiss.IndexFlatL2(paired), paired, lists, paired // 2, _PQ_BITS)
        index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1  # it would warn of small catalogues
    else:
        index = faiss.IndexHNSWSQ(paired, faiss.ScalarQuantizer.QT_8bit, _LINKS)
        index.hnsw.efConstruction = _BUILD_EFFORT
    num_samples = max(_SAMPLES * lists, 1 << _PQ_BITS)
    chosen = np.random.default_rng(0).permutation(num_items)[:num_samples]
    sample_NW = _lengthened(vectors_NV[np.sort(chosen)] - mean_V, columns_V, longest)
    index.train(np.resize(sample_NW, (max(len(sample_NW), 1 << _PQ_BITS), paired)))  # few rows are repeated
    for part in _parts(num_items):
        index.add(_lengthened(vectors_NV[part] - mean_V, columns_V, longest))
    faiss.write_index(index, str(file))


def read_faiss(file: Path, vectors_NV: Floats, width: int, kind: Kind, effort: int) -> FaissFinder:
    """The index of these vectors; ReleaseMismatch for another kind or size. The file's hash must be true: FAISS trusts files."""
    try:
        index = faiss.read_index(str(file))
    except RuntimeError as error:
        raise _mismatch(file, str(error)) from error
    columns_V, paired = layout(vectors_NV.shape[1], width)
    if type(index).__name__ != CLASSES[kind] or index.metric_type != faiss.METRIC_L2:
        raise _mismatch(file, f"it is {type(index).__name__}, not {CLASSES[kind]} of METRIC_L2")
    if (index.ntotal, index.d) != (len(vectors_NV), paired):
        raise _mismatch(file, f"it holds {index.ntotal} rows of width {index.d}, made for other vectors than {vectors_NV.shape}")
    return FaissFinder(kind, index, columns_V, file.stat().st_size, effort)


def layout(num_columns: int, width: int) -> tuple[Ints, int]:
    """Where each column [V] of a vector stands, the first `width` close together, and W; W - 2 holds the length."""
    first = width + width % 2
    tail = first + 2 * np.arange(num_columns - width)
    return np.concatenate([np.arange(width), tail]), first + 2 * len(tail) + 2


def squared_norms(rows_NV: Floats) -> Floats:
    """Squared length of each row."""
    norms: Floats = np.einsum("nv,nv->n", rows_NV, rows_NV)
    return norms


def _lengthened(rows_NV: Floats, columns_V: Ints, longest: float) -> Floats:
    """Rows in pairs, of one length: the root of `longest`."""
    length_column = columns_V.max() // 2 * 2 + 2
    rows_NW = np.zeros((len(rows_NV), length_column + 2), np.float32)
    rows_NW[:, columns_V] = rows_NV
    rows_NW[:, length_column] = np.sqrt(np.maximum(longest - squared_norms(rows_NV), 0))
    return rows_NW


def _parts(num_items: int) -> list[slice]:
    return [slice(start, start + _ADDED_AT_ONCE) for start in range(0, num_items, _ADDED_AT_ONCE)]


def _mismatch(file: Path, what: str) -> ReleaseMismatch:
    return ReleaseMismatch(f"{file}: {what}. Publish it again with `twotower embed`.")
