"""The catalogue as the nightly job finds it: which of its rows can be embedded, and why the others cannot.

R: rows of the file, N: items, the rows that can be embedded, B: rows of a batch
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embedder_cache.content import content_hashes
from twotower.catalogue import as_items, in_parallel, stream_rows
from twotower.errors import DataError
from twotower.events import MAX_ID_BYTES
from twotower.features import FeatureSpec, Hashes, Ints, as_lists, to_floats
from twotower.schema import ItemColumns

Mask = npt.NDArray[np.bool_]
Fault = tuple[str, str, Mask]  # column, reason, rows
Lines = tuple[Ints, pa.Array, str, str]  # rows of a batch, their ids, column, reason

REJECTED = pa.schema([("row", pa.int64()), ("item_id", pa.string()), ("column", pa.string()), ("reason", pa.string())])


@dataclass(frozen=True, slots=True)
class Intake:
    """What one reading of the file found."""

    item_ids: pa.Array  # [N], in the order of the file
    content_N: Hashes  # of everything the embedder reads of an item
    places: tuple[slice, ...]  # of each batch of the file among all N, those without an accepted row left out
    accepted_R: Mask
    rejected: pa.Table  # `REJECTED`: one line for each row left out


def take_in(path: Path, columns: ItemColumns, spec: FeatureSpec) -> Intake:
    """Read the catalogue once and sort out what cannot be embedded.

    That is a row without an id or with one met before, with text that is not UTF-8, with an infinite number, or with a
    vector of another length or with holes. What is missing, NaN among the numbers too, is no fault. DataError when no row
    is left, or when a column is not of its kind at all.
    """

    def sort_out(batch: pa.Table) -> tuple[pa.Array, Hashes, Mask, list[Lines]]:
        sound_B, lines = np.ones(len(batch), bool), []
        for column, reason, faulty_B in find_faults(batch, columns, spec):
            lines.append(_lines(batch.column(columns.item_id), faulty_B & sound_B, column, reason))
            sound_B &= ~faulty_B
        items = as_items(batch if sound_B.all() else batch.filter(pa.array(sound_B)), columns)
        return items.column(0).combine_chunks(), content_hashes(items), sound_B, lines

    item_ids, contents, sound, faults = zip(*in_parallel(sort_out, stream_rows(path, columns)), strict=True)
    ids, content_N, accepted_R = pa.chunked_array(item_ids).combine_chunks(), np.concatenate(contents), np.concatenate(sound)
    starts = np.cumsum([0, *map(len, sound)])
    rejected = [_table(start + rows, *what) for start, lines in zip(starts, faults, strict=False) for rows, *what in lines]
    again_N = occurred_before(ids)
    if again_N.any():
        rows = np.flatnonzero(accepted_R)[again_N]
        rejected.append(_table(rows, ids.filter(pa.array(again_N)), columns.item_id, "an item of this id came before"))
        accepted_R[rows] = False
        ids, content_N = ids.filter(pa.array(~again_N)), content_N[~again_N]
    lines = pa.concat_tables([REJECTED.empty_table(), *rejected]).sort_by("row")
    if not len(ids):
        reasons = ", ".join(pc.unique(lines.column("reason")).to_pylist())
        raise DataError(f"{path}: none of its {len(accepted_R):,} items can be embedded ({reasons})")
    ends = np.cumsum(accepted_R)[starts[1:] - 1].tolist()
    places = tuple(slice(begin, end) for begin, end in pairwise([0, *ends]) if begin < end)
    return Intake(ids, content_N, places, accepted_R, lines)


def sound_items(path: Path, columns: ItemColumns, intake: Intake) -> Iterator[tuple[pa.Table, slice]]:
    """Tables of the accepted rows, each with its place among all N; DataError when the file is not what it was."""
    row = done = 0
    for batch in stream_rows(path, columns):
        accepted_B = intake.accepted_R[row : row + len(batch)]
        row += len(batch)
        if row > len(intake.accepted_R):
            break
        items = as_items(batch.filter(pa.array(accepted_B)), columns)
        place = slice(done, done + len(items))
        if not items.column(0).combine_chunks().equals(intake.item_ids[place]):
            break
        done += len(items)
        if len(items):
            yield items, place
    if row != len(intake.accepted_R) or done != len(intake.item_ids):
        raise DataError(f"{path} changed while it was read. Run the job again.")


def find_faults(batch: pa.Table, columns: ItemColumns, spec: FeatureSpec) -> Iterator[Fault]:
    """Every kind of fault that some row of a batch has."""
    yield from _faulty_ids(batch.column(columns.item_id).combine_chunks(), columns.item_id)
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
    if not _is_text(column.type):  # integers; anything else is refused when they are cast
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
    """Which rows hold bytes that are no UTF-8, in their text or in one of the texts of their list; [B]."""
    faulty_B = np.zeros(len(column), bool)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        parents = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
        faulty_B[parents[undecodable(pc.list_flatten(column))]] = True
    elif _is_text(column.type):
        try:
            column.view(pa.large_string() if "large" in str(column.type) else pa.string()).validate(full=True)
        except pa.ArrowInvalid:
            values = column.cast(pa.large_binary()).to_pylist()
            faulty_B[:] = [value is not None and not _decodes(value) for value in values]
    return faulty_B


def occurred_before(item_ids: pa.Array) -> Mask:
    """Which ids stand further up already, [N]."""
    if pc.count_distinct(item_ids).as_py() == len(item_ids):
        return np.zeros(len(item_ids), bool)
    codes_N = item_ids.dictionary_encode().indices.to_numpy()
    again_N = np.ones(len(item_ids), bool)
    again_N[np.unique(codes_N, return_index=True)[1]] = False
    return again_N


def _decodes(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_text(kind: pa.DataType) -> bool:
    return any(f(kind) for f in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary))


def _lines(ids: pa.ChunkedArray, faulty_B: Mask, column: str, reason: str) -> Lines:
    faulty = ids.filter(pa.array(faulty_B))
    values = (faulty.cast(pa.large_binary()) if _is_text(ids.type) else faulty).to_pylist()
    texts = [v.decode(errors="replace") if isinstance(v, bytes) else None if v is None else str(v) for v in values]
    return np.flatnonzero(faulty_B), pa.array(texts, pa.string()), column, reason


def _table(rows: Ints, item_ids: pa.Array, column: str, reason: str) -> pa.Table:
    return pa.table([pa.array(rows), item_ids, [column] * len(rows), [reason] * len(rows)], schema=REJECTED)
