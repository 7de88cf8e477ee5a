"""The catalogue file with the changes made through a server: put rows follow those of the file, replaced rows are masked.

B: rows of a batch
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedder_cache.catalogue.column_types import HeldColumns, hold_columns
from twotower.artefacts.item_changes import Changes
from twotower.data.faults import Fault
from twotower.data.raw_items import item_table
from twotower.data.schema import ItemColumns
from twotower.model.catalogue import BATCH_ITEMS, stream_rows
from twotower.tables.ids import Mask, read_ids
from twotower.tables.table import open_table


@dataclass(frozen=True, slots=True)
class Overlay:
    """Changes made through a server, as rows of the catalogue file."""

    sequence: int  # sequence number of the last change
    put: pa.Table  # items put, with the columns of the file and ids as strings
    replaced: pa.Array  # ids, as bytes, whose rows in the file do not count: of items put or deleted
    unusable: tuple[tuple[str, str, str], ...]  # id, column and reason of items put that do not fit the file's types
    held: HeldColumns  # columns of the file that are converted before anything reads them

    @property
    def num_deleted(self) -> int:
        """Number of items deleted."""
        return len(self.replaced) - len(self.put)


def overlay(path: Path, columns: ItemColumns, delta: Changes, served: pa.Schema | None = None) -> Overlay:
    """The changes with the columns that the file has now, held to their kinds and to the types of the `served` item table.

    Where a put item does not fit them, the file's row stays.
    """
    held = hold_columns(path, columns, served)
    known = open_table(path, "items").schema
    schema = pa.schema([(name, held.types.get(name, known.field(name).type)) for name in columns.features])
    described = [(item_id, features) for item_id, features in delta.items.items() if features is not None]
    table, unusable = item_table([features for _, features in described], schema)
    put = [item_id for place, (item_id, _) in enumerate(described) if place not in unusable]
    deleted = [item_id for item_id, features in delta.items.items() if features is None]
    return Overlay(
        delta.sequence,
        table.add_column(0, columns.item_id, pa.array(put, pa.string())),
        pa.array([item_id.encode() for item_id in put + deleted], pa.large_binary()),
        tuple((described[place][0], error.name, str(error)) for place, error in unusable.items()),
        held,
    )


def stream_changed(path: Path, columns: ItemColumns, changes: Overlay) -> Iterator[tuple[pa.Table, Mask, list[Fault]]]:
    """Rows of the file and then the put rows, each batch with a mask [B] of the rows that were not replaced or deleted.

    The faults are those of values that are not of their column's kind, such as a price that is no number.
    """
    for rows in stream_rows(path, columns):
        batch, faults = changes.held.apply(rows)
        replaced = np.zeros(len(batch), bool)
        if len(changes.replaced):
            texts, _ = read_ids(batch.column(columns.item_id).combine_chunks(), columns.item_id)
            replaced = pc.is_in(texts.cast(pa.large_binary()), changes.replaced).to_numpy(zero_copy_only=False)
        yield batch, ~replaced, faults
    for start in range(0, len(changes.put), BATCH_ITEMS):
        put = changes.put.slice(start, BATCH_ITEMS)
        yield put, np.ones(len(put), bool), []
