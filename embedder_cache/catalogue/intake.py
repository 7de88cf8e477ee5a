"""Reads the catalogue for the nightly job: which of its rows can be embedded, and why the others cannot.

R: rows of the file, N: items, the rows that can be embedded, B: rows of a batch
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedder_cache.catalogue.content_hash import content_hashes
from embedder_cache.catalogue.item_changes import Overlay, overlay, stream_changed
from twotower.artefacts.item_changes import Changes
from twotower.data.faults import Fault, find_faults
from twotower.data.features import FeatureSpec, Hashes, Ints
from twotower.data.json_values import prove_json
from twotower.data.schema import ItemColumns
from twotower.errors import DataError
from twotower.model.catalogue import as_items, in_parallel
from twotower.tables.ids import Mask, id_texts

Lines = tuple[Ints, pa.Array, str, str]  # rows of a batch, their ids, column, reason

REJECTED = pa.schema([("row", pa.int64()), ("item_id", pa.string()), ("column", pa.string()), ("reason", pa.string())])


@dataclass(frozen=True, slots=True)
class Intake:
    """The result of reading the catalogue once."""

    item_ids: pa.Array  # [N]: the file's in its order, then the items put through a server
    content_N: Hashes  # hash of everything that the embedder reads of an item
    places: tuple[slice, ...]  # of each batch among all N items; batches without an accepted row are left out
    accepted_R: Mask
    rejected: pa.Table  # schema REJECTED: a line for each row that is left out, unless it was replaced or deleted
    changes: Overlay


def take_in(
    path: Path,
    columns: ItemColumns,
    spec: FeatureSpec,
    delta: Changes = Changes(),  # noqa: B008  # frozen
    served: pa.Schema | None = None,
) -> Intake:
    """Read the catalogue once with the changes of `delta`, and reject rows that cannot be embedded.

    A row is rejected when its id is missing or repeated, text is not UTF-8, a number is infinite or none at all, or a vector has
    another length or missing values. A missing value, NaN included, is no fault. Columns are held to the types of the `served`
    item table. DataError when no row is left, or when a column does not fit its kind at all, or holds what no
    answer of the server could show.
    """

    def sort_out(part: tuple[pa.Table, Mask, list[Fault]]) -> tuple[pa.Array, Hashes, Mask, list[Lines]]:
        batch, sound_B, unreadable = part
        lines = []
        for column, reason, faulty_B in [*unreadable, *find_faults(batch, columns, spec)]:
            lines.append(_lines(batch.column(columns.item_id), faulty_B & sound_B, column, reason))
            sound_B = sound_B & ~faulty_B
        items = as_items(batch if sound_B.all() else batch.filter(pa.array(sound_B)), columns)
        prove_json(items)
        return items.column(0).combine_chunks(), content_hashes(items), sound_B, lines

    changes = overlay(path, columns, delta, served)
    item_ids, contents, sound, faults = zip(*in_parallel(sort_out, stream_changed(path, columns, changes)), strict=True)
    ids, content_N, accepted_R = pa.chunked_array(item_ids).combine_chunks(), np.concatenate(contents), np.concatenate(sound)
    starts = np.cumsum([0, *map(len, sound)])
    rejected = [_table(start + rows, *what) for start, lines in zip(starts, faults, strict=False) for rows, *what in lines]
    again_N = occurred_before(ids)
    if again_N.any():
        rows = np.flatnonzero(accepted_R)[again_N]
        rejected.append(_table(rows, ids.filter(pa.array(again_N)), columns.item_id, "an item of this id came before"))
        accepted_R[rows] = False
        ids, content_N = ids.filter(pa.array(~again_N)), content_N[~again_N]
    rejected += [pa.table([[None], [i], [column], [why]], schema=REJECTED) for i, column, why in changes.unusable]
    lines = pa.concat_tables([REJECTED.empty_table(), *rejected]).sort_by("row")
    if not len(ids):
        raise DataError(f"{path}: none of its {len(accepted_R):,} items can be embedded: {', '.join(reasons(lines))}")
    ends = np.cumsum(accepted_R)[starts[1:] - 1].tolist()
    places = tuple(slice(begin, end) for begin, end in pairwise([0, *ends]) if begin < end)
    return Intake(ids, content_N, places, accepted_R, lines, changes)


def sound_items(path: Path, columns: ItemColumns, intake: Intake) -> Iterator[tuple[pa.Table, slice]]:
    """Tables of accepted rows, each with its place among all N; DataError when the file changed since `take_in` read it."""
    row = done = 0
    for batch, _, _ in stream_changed(path, columns, intake.changes):
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


def reasons(rejected: pa.Table) -> list[str]:
    """Why rows were rejected, the most frequent reason first."""
    counted = rejected.group_by(["column", "reason"]).aggregate([([], "count_all")]).sort_by([("count_all", "descending")])
    return [f"{row['column']!r} {row['reason']}" for row in counted.to_pylist()]


def occurred_before(item_ids: pa.Array) -> Mask:
    """Which ids are repetitions of an earlier row's, [N]."""
    if pc.count_distinct(item_ids).as_py() == len(item_ids):
        return np.zeros(len(item_ids), bool)
    codes_N = item_ids.dictionary_encode().indices.to_numpy()
    again_N = np.ones(len(item_ids), bool)
    again_N[np.unique(codes_N, return_index=True)[1]] = False
    return again_N


def _lines(ids: pa.ChunkedArray, faulty_B: Mask, column: str, reason: str) -> Lines:
    faulty = ids.filter(pa.array(faulty_B))
    return np.flatnonzero(faulty_B), pa.array(id_texts(faulty), pa.string()), column, reason


def _table(rows: Ints, item_ids: pa.Array, column: str, reason: str) -> pa.Table:
    return pa.table([pa.array(rows), item_ids, [column] * len(rows), [reason] * len(rows)], schema=REJECTED)
