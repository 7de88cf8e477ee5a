"""Finds faults that keep an item from being embedded: the same rules for the nightly job and for items put through a server.

B: rows of a batch
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.events import MAX_ID_BYTES
from twotower.data.features import FeatureSpec, as_lists, to_floats
from twotower.data.schema import ItemColumns

Mask = npt.NDArray[np.bool_]
Fault = tuple[str, str, Mask]  # column, reason, rows


def find_faults(batch: pa.Table, columns: ItemColumns, spec: FeatureSpec) -> Iterator[Fault]:
    """The faults of a batch: each kind that at least one row has."""
    yield from _faulty_ids(batch.column(columns.item_id).combine_chunks(), columns.item_id)
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


def _faulty_ids(column: pa.Array, name: str) -> Iterator[Fault]:
    if not is_text(column.type):  # then they must be integers: a cast refuses other types
        yield from _found(name, "is missing", column.is_null().to_numpy(zero_copy_only=False))
        return
    length_B = pc.binary_length(column.cast(pa.large_binary())).fill_null(0).to_numpy(zero_copy_only=False)
    yield from _found(name, "is missing", length_B == 0)
    yield from _found(name, f"is longer than {MAX_ID_BYTES} bytes", length_B > MAX_ID_BYTES)
    yield from _found(name, "is not UTF-8", undecodable(column))


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


def undecodable(column: pa.Array) -> Mask:
    """Which rows hold bytes that are not UTF-8, in their text or in a text of their list; [B]."""
    faulty_B = np.zeros(len(column), bool)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        parents = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
        faulty_B[parents[undecodable(pc.list_flatten(column))]] = True
    elif is_text(column.type):
        try:
            column.view(pa.large_string() if "large" in str(column.type) else pa.string()).validate(full=True)
        except pa.ArrowInvalid:
            values = column.cast(pa.large_binary()).to_pylist()
            faulty_B[:] = [value is not None and not _decodes(value) for value in values]
    return faulty_B


def _decodes(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text, as strings or as bytes."""
    return any(f(kind) for f in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary))
