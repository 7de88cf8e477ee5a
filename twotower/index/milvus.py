"""Catalogues beyond one node: Milvus holds the rows and names candidates; the scores are computed here, as of every kind.

`TWOTOWER_MILVUS` says where: a server's URL, or a file for the embedded Milvus Lite. A collection's name holds the hash of its
vectors, so that a release cannot meet another's rows.

N: items, V: vector width, Q: queries, C: candidates
"""

import hashlib
import os
from itertools import count
from typing import Any

import numpy as np

from twotower.data.features import Floats, Ints
from twotower.errors import EnvironmentProblem, ReleaseMismatch
from twotower.index.distance import Lengthened, lengthened_queries
from twotower.index.scan import Mask

WHERE = "TWOTOWER_MILVUS"
_REFINED = 10  # candidates per result
_MOST_RESULTS = 16_384  # that Milvus returns
_MOST_DENIED = 10_000  # rows that a filter may list; with more, what comes back denied is dropped here
_INSERTED_AT_ONCE = 2_000


class MilvusFinder:
    """A collection of Milvus."""

    num_bytes = 0  # they are the server's

    def __init__(self, client: Any, collection: str, width: int) -> None:
        self._client, self._collection, self._width = client, collection, width

    def find(self, queries_QV: Floats, k: int, allowed: Mask | None) -> tuple[Ints, Ints]:
        """Rows that Milvus ranks first, of the allowed [N]; fewer where most of the first ones are denied."""
        denied = [] if allowed is None else np.flatnonzero(~allowed).tolist()
        found = self._client.search(
            self._collection,
            data=list(lengthened_queries(queries_QV, self._width)),
            limit=min(_REFINED * k, _MOST_RESULTS),
            filter=f"row not in {denied}" if 0 < len(denied) <= _MOST_DENIED else "",
            anns_field="vector",
            consistency_level="Strong",
        )
        pairs = [(query, hit["row"]) for query, hits in enumerate(found) for hit in hits]
        query_C, row_C = np.array(pairs, np.int64).reshape(-1, 2).T
        kept = slice(None) if allowed is None else allowed[row_C]
        return query_C[kept], row_C[kept]


def write_milvus(vectors_NV: Floats, width: int) -> None:
    """Insert the vectors, unless they are there; what a killed run left is dropped first."""
    from pymilvus import DataType

    client, name, rows = connect(), collection_of(vectors_NV), Lengthened(vectors_NV, width)
    if client.has_collection(name):
        if num_rows(client, name) == len(vectors_NV):
            return
        client.drop_collection(name)
    schema = client.create_schema(auto_id=False)
    schema.add_field("row", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=rows.width)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="AUTOINDEX", metric_type="L2")
    client.create_collection(name, schema=schema, index_params=index)
    row = count()
    for part_CW in rows.parts(_INSERTED_AT_ONCE):
        client.insert(name, [{"row": next(row), "vector": row_W} for row_W in part_CW])
    client.flush(name)


def open_milvus(vectors_NV: Floats, width: int) -> MilvusFinder:
    """The collection of these vectors; ReleaseMismatch when Milvus has none."""
    client, name = connect(), collection_of(vectors_NV)
    if not client.has_collection(name) or num_rows(client, name) != len(vectors_NV):
        raise ReleaseMismatch(f"Milvus has no {name} of {len(vectors_NV)} rows. Publish it again with `twotower embed`.")
    client.load_collection(name)
    return MilvusFinder(client, name, width)


def num_rows(client: Any, collection: str) -> int:
    """Rows of a collection."""
    return int(client.get_collection_stats(collection)["row_count"])


def connect() -> Any:
    """A client of the Milvus that the environment names; EnvironmentProblem without one."""
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
    """The name of their collection."""
    return f"twotower_{hashlib.sha256(np.ascontiguousarray(vectors_NV).data).hexdigest()[:16]}"
