"""Stream the catalogue and embed it in batches: training's second stage and the nightly job do the same thing here.

N: items, D: vector width
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from twotower.errors import DataError
from twotower.events import ids, open_parquet, require_columns, stream_batches
from twotower.features import EncodedRows, FeatureSpec, FieldSpec, Floats, encode_rows, fit_field
from twotower.model.embedder import Embedder
from twotower.schema import ItemColumns

BATCH_ITEMS = 8192
ID_FIELD = "item_id"


def stream_items(path: Path, columns: ItemColumns) -> Iterator[pa.Table]:
    """Tables of up to 8,192 items, `item_id` first and then every feature of the schema, in file order."""
    dataset = open_parquet(path, "items")
    names = list(columns.features)
    require_columns(dataset.schema, [columns.item_id, *names], path)
    seen = 0
    for batch in stream_batches(dataset, [columns.item_id, *names], BATCH_ITEMS, path):
        seen += batch.num_rows
        arrays = [ids(batch.column(columns.item_id), columns.item_id), *(batch.column(n) for n in names)]
        yield pa.table(arrays, names=[ID_FIELD, *names])
    if not seen:
        raise DataError(f"{path} holds no items")


def read_item_ids(path: Path, columns: ItemColumns) -> pa.Array:
    """Every item id, in the order of its row; DataError for a missing id or one that occurs twice."""
    item_ids = pa.chunked_array([t.column(ID_FIELD).combine_chunks() for t in stream_items(path, columns)]).combine_chunks()
    counts = pc.value_counts(item_ids)
    twice = pc.filter(counts.field("values"), pc.greater(counts.field("counts"), 1))
    if len(twice):
        examples = ", ".join(map(repr, twice[:3].to_pylist()))
        raise DataError(f"{path}: {len(twice)} item ids occur more than once, such as {examples}; keep one row per item")
    if pc.any(pc.equal(item_ids, "")).as_py():
        raise DataError(f"{path}: column {columns.item_id!r} has missing ids; every item needs one")
    return item_ids


def fit_item_spec(path: Path, columns: ItemColumns) -> FeatureSpec:
    """The feature spec of a catalogue: the schema's fields with their bins, and the item id itself.

    Bins come from one column at a time, so memory is one column's.
    """
    dataset = open_parquet(path, "items")
    require_columns(dataset.schema, list(columns.features), path)
    fields = [
        fit_field(name, kind, dataset.to_table(columns=[name]).column(0).combine_chunks())
        if kind in ("numeric", "time", "vector")
        else FieldSpec(name=name, kind=kind)
        for name, kind in columns.features.items()
    ]
    return FeatureSpec(fields=(FieldSpec(name=ID_FIELD, kind="id"), *fields))


def encode_items(table: pa.Table, spec: FeatureSpec, table_rows: int) -> EncodedRows:
    """Encode a table as `stream_items` yields it."""
    return encode_rows({n: table.column(n).combine_chunks() for n in table.column_names}, spec, table_rows)


def embed_rows(embedder: Embedder, rows: EncodedRows) -> torch.Tensor:
    """Vectors [N, D] of encoded items, batch by batch and without gradients."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(rows), BATCH_ITEMS):
            part = rows.take(np.arange(start, min(start + BATCH_ITEMS, len(rows))))
            parts.append(embedder(*tensors(part)))
    return torch.cat(parts)


def embed_catalogue(
    path: Path,
    columns: ItemColumns,
    embedder: Embedder,
    spec: FeatureSpec,
    table_rows: int,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Iterator[tuple[pa.Table, Floats]]:
    """Stream (items, vectors [n, D]) of a whole catalogue; `on_batch` hears the size of each batch."""
    for table in stream_items(path, columns):
        yield table, embed_rows(embedder, encode_items(table, spec, table_rows)).numpy()
        on_batch(len(table))


def tensors(rows: EncodedRows) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Arguments of the embedder."""
    return (torch.from_numpy(rows.slots_NS), torch.from_numpy(rows.weights_NS), torch.from_numpy(rows.dense_NF))
