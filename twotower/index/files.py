"""Writes the index of a release and opens it again, whatever its kind.

N: items, V: vector width
"""

from pathlib import Path

from twotower.data.features import Floats
from twotower.device import ON_CPU, Device
from twotower.index.coded import Code, CodedRows, Codes, encoded, read_codes, write_codes
from twotower.index.integers import coded_rows, exact_rows
from twotower.index.kinds import CODES, FAISS, IndexInfo, Kind
from twotower.index.scan import Float32Rows, Rows, Scan
from twotower.index.search import Index


def write_index(directory: Path, vectors_NV: Floats, width: int, kind: Kind, device: Device = ON_CPU) -> None:
    """Build an index over vectors whose first `width` columns are the embedding, and write its files.

    A kind for GPUs is built on `device`; EnvironmentProblem when that cannot be.
    """
    match kind:
        case "flat":
            pass
        case "flat16":
            write_codes(directory / CODES, vectors_NV, width, "float16")
        case "int8":
            write_codes(directory / CODES, vectors_NV, width, "int8")
        case "ivfpq" | "hnsw":
            from twotower.index.approximate import write_faiss

            write_faiss(directory / FAISS, vectors_NV, width, kind)
        case "milvus":
            from twotower.index.milvus import write_milvus

            write_milvus(vectors_NV, width)
        case "gpu_flat16" | "gpu_ivfpq" | "gpu_cagra":
            from twotower.index.gpu import write_gpu

            write_gpu(directory / FAISS, vectors_NV, width, kind, device)


def open_index(directory: Path, vectors_NV: Floats, width: int, info: IndexInfo, device: Device = ON_CPU) -> Index:
    """Open the index of these vectors, for one thread at a time; ReleaseMismatch when it was built from other vectors.

    A kind for GPUs moves to `device`; EnvironmentProblem when that cannot hold it. Every other kind is opened on the CPU.
    Verify the hashes of its files first, because native code reads them.
    """
    rows: Rows
    match info.kind:
        case "flat":
            rows = exact_rows(vectors_NV, width)
        case "flat16":
            rows = CodedRows(vectors_NV, *_codes(directory, vectors_NV, width, info, "float16"))
        case "int8":
            rows = coded_rows(vectors_NV, *_codes(directory, vectors_NV, width, info, "int8"))
        case "ivfpq" | "hnsw":
            from twotower.index.approximate import read_faiss

            found = read_faiss(directory / FAISS, vectors_NV, width, info.kind, info.effort)
            return Index(info.kind, vectors_NV, found, exact=Scan(Float32Rows(vectors_NV)))
        case "milvus":
            from twotower.index.milvus import open_milvus

            return Index(info.kind, vectors_NV, open_milvus(vectors_NV, width, info.effort), exact=Scan(Float32Rows(vectors_NV)))
        case "gpu_flat16" | "gpu_ivfpq" | "gpu_cagra":
            from twotower.index.gpu import open_gpu

            moved = open_gpu(directory / FAISS, vectors_NV, width, info.kind, info.effort, device)
            return Index(info.kind, vectors_NV, moved, exact=Scan(Float32Rows(vectors_NV)), omitting=moved)
    scan = Scan(rows)
    return Index(info.kind, vectors_NV, scan, exact=scan)


def _codes(directory: Path, vectors_NV: Floats, width: int, info: IndexInfo, code: Code) -> Codes:
    """The stored codes of these vectors, or else new ones, which are the same."""
    return read_codes(directory / CODES, vectors_NV, width, code) if info.stored else encoded(vectors_NV, width, code)
