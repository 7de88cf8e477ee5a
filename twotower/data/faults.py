"""Finds faults that keep an item from being embedded: the same rules for the nightly job and for items put through a server.

B: rows of a batch
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.features import FeatureSpec, as_lists, to_floats
from twotower.data.schema import ItemColumns
from twotower.tables.ids import MISSING_ID, Mask, read_ids, undecodable

Fault = tuple[str, str, Mask]  # column, reason, rows


def find_faults(batch: pa.Table, columns: ItemColumns, spec: FeatureSpec) -> Iterator[Fault]:
    """The faults of a batch: each kind that at least one row has."""
    yield from faulty_ids(batch.column(columns.item_id).combine_chunks(), columns.item_id)
    yield from faulty_features(batch, columns, spec)


def faulty_features(batch: pa.Table, columns: ItemColumns, spec: FeatureSpec) -> Iterator[Fault]:
    """The faults of all columns except the id."""
    for field in spec.fields:
        if field.name not in columns.features:
            continue
        column = batch.column(field.name).combine_chunks()
        if field.kind == "numeric":
            yield from _found(field.name, "is infinite", np.isinf(to_floats(column, field.name)))
        elif field.kind == "vector":
            yield from _faulty_vectors(column, field.name, field.dim)
        elif field.kind != "time":
            yield from _found(field.name, "is not UTF-8", undecodable(column))


def faulty_ids(column: pa.Array, name: str) -> Iterator[Fault]:
    """The faults of a column of ids."""
    texts, faults = read_ids(column, name)
    missing_B = pc.equal(texts, "").to_numpy(zero_copy_only=False)
    for reason, faulty_B in faults:
        missing_B = missing_B & ~faulty_B
        yield name, reason, faulty_B
    yield from _found(name, MISSING_ID, missing_B)


def _faulty_vectors(column: pa.Array, name: str, dim: int) -> Iterator[Fault]:
    lists = as_lists(column, name, pa.float64())
    length_B = pc.list_value_length(lists).fill_null(dim).to_numpy(zero_copy_only=False)
    yield from _found(name, f"is not of length {dim}", length_B != dim)
    finite = pc.is_finite(pc.list_flatten(lists)).fill_null(False).to_numpy(zero_copy_only=False)
    hole_B = np.zeros(len(lists), bool)
    hole_B[pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)[~finite]] = True
    yield from _found(name, "holds a value that is not finite", hole_B)


def _found(column: str, reason: str, faulty_B: Mask) -> Iterator[Fault]:
    if faulty_B.any():
        yield column, reason, faulty_B
