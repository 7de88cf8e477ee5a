"""Streams the catalogue and embeds it in batches, for the second stage of training and for the nightly job.

N: items, D: vector width
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import torch

from twotower.data.features import EncodedRows, FeatureSpec, FieldSpec, Floats, encode_rows, fit_field
from twotower.data.schema import ItemColumns
from twotower.device import ON_CPU, Device, device_of_weights, on
from twotower.errors import DataError
from twotower.model.embed_stream import embed_stream
from twotower.model.embedder import Embedder
from twotower.tables.ids import ids, undecodable
from twotower.tables.table import Part, Table, open_table

T = TypeVar("T")
R = TypeVar("R")

BATCH_ITEMS = 8192
BLOCK_ITEMS = 1024  # embedded at once: few enough that intermediate results stay in the processor's cache
GPU_BLOCK_ITEMS = 65_536  # on a GPU: enough to fill it
SAMPLE_ITEMS = 100_000  # at least, of a larger catalogue, to choose how much of texts and lists is read
ID_FIELD = "item_id"


def stream_items(path: Path, columns: ItemColumns) -> Iterator[pa.Table]:
    """Tables of up to 8,192 items, `item_id` first and then every feature of the schema, in file order.

    A text that is not UTF-8 is missing.
    """
    for batch in stream_rows(path, columns):
        items = as_items(batch, columns)
        for place, name in enumerate(items.column_names):
            column = items.column(name).combine_chunks()
            if (faulty := undecodable(column)).any():
                items = items.set_column(place, name, pc.if_else(pa.array(faulty), None, column))
        yield items


def stream_rows(path: Path, columns: ItemColumns) -> Iterator[pa.Table]:
    """Rows of the file, up to 8,192 at a time, with the columns of id and features in plain types."""
    table = open_table(path, "items")
    for part in table.parts:
        yield from rows_of_part(table, part, columns)
    if not table.num_rows:
        raise DataError(f"{path} holds no items")


def rows_of_part(table: Table, part: Part, columns: ItemColumns, row_group: int | None = None) -> Iterator[pa.Table]:
    """The rows of one file, or of one of its row groups, as `stream_rows` yields them."""
    names = [columns.item_id, *columns.features]
    return (pa.Table.from_batches([batch]) for batch in table.batches_of(part, names, BATCH_ITEMS, row_group))


def as_items(rows: pa.Table, columns: ItemColumns) -> pa.Table:
    """Rows with their ids as strings, under the name `item_id`."""
    item_ids = ids(rows.column(columns.item_id).combine_chunks(), columns.item_id)
    return pa.table([item_ids, *(rows.column(n) for n in columns.features)], names=[ID_FIELD, *columns.features])


def read_item_ids(path: Path, columns: ItemColumns) -> pa.Array:
    """All item ids in the order of rows; DataError for a missing or repeated id."""
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
    """The feature spec of a catalogue: the item id, and the schema's fields with their bins.

    Only one column is in memory at a time, and of texts, lists and vectors only a sample.
    """
    table = open_table(path, "items")
    table.require(list(columns.features))
    every = max(1, table.num_rows // SAMPLE_ITEMS)
    fields = [
        FieldSpec(name=name, kind=kind) if kind == "categorical" else fit_field(name, kind, _column(table, name, kind, every))
        for name, kind in columns.features.items()
    ]
    return FeatureSpec(fields=(FieldSpec(name=ID_FIELD, kind="id"), *fields))


def _column(table: Table, name: str, kind: str, every: int) -> pa.Array:
    """A whole column; of texts, lists and vectors every n-th row, and what is not UTF-8 is missing."""
    if kind not in ("text", "list", "vector"):
        return table.column(name)
    chunks, start = [], 0
    for batch in table.batches([name], BATCH_ITEMS):
        column = batch.column(0).take(pa.array(range(-start % every, len(batch), every), pa.int64()))
        chunks.append(pc.if_else(pa.array(faulty), None, column) if (faulty := undecodable(column)).any() else column)
        start += len(batch)
    return pa.chunked_array(chunks, table.schema.field(name).type).combine_chunks()


def encode_items(table: pa.Table, spec: FeatureSpec, table_rows: int) -> EncodedRows:
    """Encode a table as `stream_items` yields it."""
    return encode_rows({n: table.column(n).combine_chunks() for n in table.column_names}, spec, table_rows)


def embed_rows(embedder: Embedder, rows: EncodedRows) -> torch.Tensor:
    """Vectors [N, D] of encoded items, block by block and without gradients, on the device of the embedder."""
    device = device_of_weights(embedder)
    vectors_ND: torch.Tensor | None = None
    block = BLOCK_ITEMS if device.type == "cpu" else GPU_BLOCK_ITEMS
    with torch.inference_mode():
        for start in range(0, len(rows), block):
            part_nD: torch.Tensor = embedder(*on(device, tensors(rows.take(slice(start, start + block)))))
            if vectors_ND is None:
                vectors_ND = part_nD.new_empty(len(rows), part_nD.shape[1])
            vectors_ND[start : start + block] = part_nD
    assert vectors_ND is not None, "no rows"
    return vectors_ND


def embed_catalogue(
    path: Path,
    columns: ItemColumns,
    embedder: Embedder,
    spec: FeatureSpec,
    table_rows: int,
    on_batch: Callable[[int], None] = lambda done: None,
    device: Device = ON_CPU,
) -> Iterator[tuple[pa.Table, Floats]]:
    """Stream (items, vectors [n, D]) of a whole catalogue; `on_batch` is called with the size of each batch.

    On a GPU the threads only encode, and the embedder, whose weights lie there, embeds batch after batch.
    """

    def encode(table: pa.Table) -> tuple[pa.Table, EncodedRows]:
        return table, encode_items(table, spec, table_rows)

    def embed(table: pa.Table) -> tuple[pa.Table, Floats]:
        return table, embed_table(table, embedder, spec, table_rows)

    tables = stream_items(path, columns)
    parts = embed_stream(embedder, in_parallel(encode, tables), device) if device.is_gpu else in_parallel(embed, tables)
    for table, vectors in parts:
        yield table, vectors
        on_batch(len(table))


def embed_table(table: pa.Table, embedder: Embedder, spec: FeatureSpec, table_rows: int) -> Floats:
    """Vectors [n, D] of the items of one table."""
    return embed_rows(embedder, encode_items(table, spec, table_rows)).numpy()


def embed_content(table: pa.Table, embedder: Embedder, spec: FeatureSpec, table_rows: int) -> Floats:
    """Vectors [n, D] of the items of one table by their features alone: ids are hidden, as training hides some."""
    rows = encode_items(table, spec, table_rows)
    rows.weights_NS[:, : spec.num_id_hashes] = 0.0
    return embed_rows(embedder, rows).numpy()


def in_parallel(function: Callable[[T], R], parts: Iterable[T]) -> Iterator[R]:
    """Yield `function(part)` of each part in order, from as many threads as torch uses, with few parts in memory.

    One thread works on each part, so that results do not depend on the number of threads. It is also faster, because one thread
    multiplies matrices while another hashes strings.
    """
    num_threads = torch.get_num_threads()
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(num_threads, "part", lambda: torch.set_num_threads(1)) as pool:
        try:
            for part in parts:
                waiting.append(pool.submit(function, part))
                if len(waiting) > num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(num_threads)  # new threads inherit the last setting, whichever thread made it


def tensors(rows: EncodedRows) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The arguments of the embedder as tensors."""
    return (torch.from_numpy(rows.slots_NS), torch.from_numpy(rows.weights_NS), torch.from_numpy(rows.dense_NF))
