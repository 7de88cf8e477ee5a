"""The kinds of index, each with the files it adds to a release. vectors.npy is there whatever the kind.

flat      the vectors themselves, along their principal axes or as integers; exact, and nothing to build
flat16    half the memory: float16 codes; exact
int8      a quarter of the memory: int8 codes; exact
ivfpq     a tenth of the memory or less: FAISS IVF-PQ; approximate, fast with millions of items
hnsw      FAISS HNSW; approximate
milvus    no memory here: a collection of Milvus; approximate, for catalogues beyond one node

gpu_flat16  float16 rows in the memory of a GPU; approximate, because they are rounded
gpu_ivfpq   FAISS IVF-PQ on a GPU: a quarter of a byte a value; approximate
gpu_cagra   the graph CAGRA on a GPU: more memory than the rows themselves; approximate

Commands read this file before they parse their arguments, so it imports no library that is slow to load.
"""

from typing import Literal, get_args

import msgspec

GpuKind = Literal["gpu_flat16", "gpu_ivfpq", "gpu_cagra"]
Kind = Literal["flat", "flat16", "int8", "ivfpq", "hnsw", "milvus", "gpu_flat16", "gpu_ivfpq", "gpu_cagra"]
KINDS: tuple[Kind, ...] = get_args(Kind)
GPU_KINDS: tuple[GpuKind, ...] = get_args(GpuKind)
EXACT: frozenset[Kind] = frozenset({"flat", "flat16", "int8"})
CODED: frozenset[Kind] = frozenset({"flat16", "int8"})  # made from each vector by itself, in about the time of reading them
CODES, FAISS = "index.safetensors", "index.faiss"
FILES: dict[Kind, tuple[str, ...]] = {
    "flat": (),
    "flat16": (CODES,),
    "int8": (CODES,),
    "ivfpq": (FAISS,),
    "hnsw": (FAISS,),
    "milvus": (),
    "gpu_flat16": (),
    "gpu_ivfpq": (FAISS,),
    "gpu_cagra": (FAISS,),
}


class IndexInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The kind of a release's index and its search effort."""

    kind: Kind = "flat"
    effort: int = 0  # of an approximate kind, see `FaissFinder`, `MilvusFinder` and `GpuFinder`
    stored: bool = True  # else codes are made from the vectors when the index is opened, and the kind adds no file

    @property
    def files(self) -> tuple[str, ...]:
        """The files that the index adds to a release."""
        return FILES[self.kind] if self.stored else ()
