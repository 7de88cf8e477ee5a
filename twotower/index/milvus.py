"""The kind `milvus`, for catalogues beyond one node: Milvus holds the rows and names candidates, which are scored here.

`TWOTOWER_MILVUS` gives a server's URL, or a file for the embedded Milvus Lite. A collection is named by the hash of its
vectors, so that a release cannot search another's rows.

N: items, V: vector width, Q: queries, C: candidates
"""

import hashlib
import os
from itertools import chain, count
from typing import Any

import numpy as np

from twotower.data.features import Floats, Ints
from twotower.errors import EnvironmentProblem, ReleaseMismatch
from twotower.index.distance import Lengthened, lengthened_queries
from twotower.index.scan import Mask

WHERE = "TWOTOWER_MILVUS"
_REFINED = 10  # candidates per result
_MOST_RESULTS = 16_384  # that Milvus can return
_MOST_DENIED = 10_000  # rows that a filter lists at most; with more, denied rows are dropped from the answer
_INSERTED_AT_ONCE = 2_000
_LINKS, _BUILD_EFFORT = 32, 80  # as of the kind `hnsw`
# Where rows have no index yet, Milvus Lite holds queries x rows x width floats, so many queries at once could take all memory.
_ASKED_AT_ONCE = 8


class MilvusFinder:
    """A collection of Milvus. `effort` is the number of nearest rows that a search of its graph keeps: more finds more."""

    num_bytes = 0  # the server holds the rows

    def __init__(self, client: Any, collection: str, width: int, effort: int) -> None:
        self._client, self._collection, self._width, self.effort = client, collection, width, effort

    def find(self, queries_QV: Floats, k: int, allowed: Mask | None) -> tuple[Ints, Ints]:
        """The allowed rows among those that Milvus ranks first: fewer than k when most of them are not allowed."""
        denied = [] if allowed is None else np.flatnonzero(~allowed).tolist()
        asked = list(lengthened_queries(queries_QV, self._width))
        rows: list[list[int]] = []
        limit = min(_REFINED * k, _MOST_RESULTS)
        for start in range(0, len(asked), _ASKED_AT_ONCE):
            found = self._client.search(
                self._collection,
                data=asked[start : start + _ASKED_AT_ONCE],
                limit=limit,
                search_params={"params": {"ef": max(self.effort, limit)}},  # with less, Lite returns fewer rows than asked for
                filter=f"row not in {denied}" if 0 < len(denied) <= _MOST_DENIED else "",
                anns_field="vector",
                consistency_level="Strong",
            )
            rows += [[hit["row"] for hit in hits] for hits in found]
        query_C = np.repeat(np.arange(len(rows)), [len(hits) for hits in rows])
        row_C = np.array(list(chain.from_iterable(rows)), np.int64)
        kept = slice(None) if allowed is None else allowed[row_C]
        return query_C[kept], row_C[kept]


def write_milvus(vectors_NV: Floats, width: int) -> None:
    """Insert the vectors unless Milvus has them, and wait until their index is built.

    An incomplete collection of a killed run is dropped first. The index is asked for when all rows are there: Milvus then builds
    it before it answers, while an index that exists from the beginning is built behind the back of the first searches.
    """
    from pymilvus import DataType

    client, name, rows = connect(), collection_of(vectors_NV), Lengthened(vectors_NV, width)
    if client.has_collection(name):
        if num_rows(client, name) == len(vectors_NV) and client.list_indexes(name):
            return
        client.drop_collection(name)
    schema = client.create_schema(auto_id=False)
    schema.add_field("row", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=rows.width)
    client.create_collection(name, schema=schema)
    row = count()
    for part_CW in rows.parts(_INSERTED_AT_ONCE):
        client.insert(name, [{"row": next(row), "vector": row_W} for row_W in part_CW])
    client.flush(name)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="HNSW", metric_type="L2", params={"M": _LINKS, "efConstruction": _BUILD_EFFORT})
    client.create_index(name, index)


def open_milvus(vectors_NV: Floats, width: int, effort: int) -> MilvusFinder:
    """Open the collection of these vectors; ReleaseMismatch when Milvus does not have it."""
    client, name = connect(), collection_of(vectors_NV)
    if not client.has_collection(name) or num_rows(client, name) != len(vectors_NV) or not client.list_indexes(name):
        raise ReleaseMismatch(f"Milvus has no {name} of {len(vectors_NV)} rows. Publish it again with `twotower embed`.")
    client.load_collection(name)
    return MilvusFinder(client, name, width, effort)


def num_rows(client: Any, collection: str) -> int:
    """Number of rows of a collection."""
    return int(client.get_collection_stats(collection)["row_count"])


def connect() -> Any:
    """A client of the Milvus that TWOTOWER_MILVUS names; EnvironmentProblem when it is not set or does not answer."""
    if WHERE not in os.environ:
        raise EnvironmentProblem(f"set {WHERE} to the URL of a Milvus server, or to a file for Milvus Lite")
    try:
        from pymilvus import MilvusClient, MilvusException
    except ModuleNotFoundError:
        raise EnvironmentProblem("pymilvus is not installed: pip install -c constraints.txt 'twotower[milvus]'") from None
    try:
        return MilvusClient(os.environ[WHERE])
    except MilvusException as error:
        raise EnvironmentProblem(f"cannot reach Milvus at {os.environ[WHERE]}: {error.message}") from error


def collection_of(vectors_NV: Floats) -> str:
    """The name of the collection of these vectors."""
    return f"twotower_{hashlib.sha256(np.ascontiguousarray(vectors_NV).data).hexdigest()[:16]}"
