"""The items of a release, whole or in parts.

A night that changed little publishes the items of the release before as they are, by hard links, and the changed ones as one part
more. Each part has three files of equal length: vectors, items and content hashes. `rows.npy` says where each item of the
release stands in all parts taken together, in the order of the catalogue; rows that it does not name are items that were
replaced or deleted. `popularity.npy` has tonight's popularity and signals of all items; those in the parts are old.

So a release in parts holds what a whole one would hold, item by item and bit by bit.

N: items of the release, M: rows of all parts, V: vector width, P: popularity and signal dimensions, B: rows of a block
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower.artefacts.bundle import read_table
from twotower.artefacts.release import POPULARITY, ROWS, VECTORS, ReleaseInfo
from twotower.data.features import Floats, Hashes, Ints
from twotower.errors import ReleaseMismatch

_BLOCK_ROWS = 65_536


def read_vectors(path: Path, info: ReleaseInfo) -> Floats:
    """Item vectors [N, V] with popularity and signals. ReleaseMismatch where files do not fit together.

    Those of a whole release are mapped copy-on-write, because torch refuses a read-only map. Those in parts are put together in
    memory.
    """
    if not info.num_parts:
        return _array(path / VECTORS, mode="c")
    return put_together(path, info.part_files, read_rows(path, info), _array(path / POPULARITY))


def put_together(path: Path, files: Sequence[tuple[str, str, str]], rows_N: Ints, popularity_NP: Floats) -> Floats:
    """Vectors [N, V] from the parts in these files of a directory, with other popularity."""
    parts = [_array(path / vectors) for vectors, _, _ in files]
    if {(part.shape[1:], part.dtype) for part in parts} != {(parts[0].shape[1:], np.dtype(np.float32))} or parts[0].ndim != 2:
        raise _mismatch(path, "its parts are no float32 vectors of one width")
    if popularity_NP.ndim != 2 or len(popularity_NP) != len(rows_N) or popularity_NP.shape[1] > parts[0].shape[1]:
        raise _mismatch(path, "vectors and popularity are of shapes that do not fit together")
    _require_rows(path, rows_N, sum(map(len, parts)))
    vectors_NV = np.empty((len(rows_N), parts[0].shape[1]), np.float32)
    _gather(parts, rows_N, vectors_NV)
    vectors_NV[:, vectors_NV.shape[1] - popularity_NP.shape[1] :] = popularity_NP
    return vectors_NV


def read_items(path: Path, info: ReleaseInfo) -> pa.Table:
    """The item table, in the order of the catalogue; memory-mapped where the items are whole."""
    parts = [read_table(path / items) for _, items, _ in info.part_files]
    if not info.num_parts:
        return parts[0]
    rows_N, table = read_rows(path, info), pa.concat_tables(parts)
    _require_rows(path, rows_N, len(table))
    blocks = (pa.array(rows_N[start : start + _BLOCK_ROWS]) for start in range(0, len(rows_N), _BLOCK_ROWS))
    return pa.concat_tables([table.take(block).combine_chunks() for block in blocks])


def read_content(path: Path, info: ReleaseInfo) -> Hashes:
    """The content hashes of the items, [N]."""
    parts = [_array(path / content) for _, _, content in info.part_files]
    if not info.num_parts:
        return parts[0]
    rows_N = read_rows(path, info)
    _require_rows(path, rows_N, sum(map(len, parts)))
    return np.concatenate(parts)[rows_N]


def part_lengths(path: Path, info: ReleaseInfo) -> list[int]:
    """The number of rows of each part."""
    return [len(_array(path / content)) for _, _, content in info.part_files]


def read_rows(path: Path, info: ReleaseInfo) -> Ints:
    """Where each item of the release stands in all parts taken together, [N]."""
    if not info.num_parts:
        return np.arange(info.num_items)
    rows_N: Ints = _array(path / ROWS).astype(np.int64)
    if rows_N.shape != (info.num_items,):
        raise _mismatch(path, f"{ROWS} does not hold the rows of {info.num_items} items")
    return rows_N


def _require_rows(path: Path, rows_N: Ints, num_rows: int) -> None:
    if rows_N.max(initial=0) >= num_rows or rows_N.min(initial=0) < 0:
        raise _mismatch(path, f"{ROWS} names rows that no part has")


def _gather(parts: list[Floats], rows_N: Ints, vectors_NV: Floats) -> None:
    """Copy rows of all parts taken together. All parts but the first are small."""
    first_MV, late = parts[0], rows_N >= len(parts[0])
    for start in range(0, len(rows_N), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        np.take(first_MV, np.minimum(rows_N[block], len(first_MV) - 1), 0, out=vectors_NV[block], mode="clip")
    if late.any():
        others_MV = np.concatenate(parts[1:])
        vectors_NV[late] = others_MV[rows_N[late] - len(first_MV)]


def _array(path: Path, mode: Any = "r") -> npt.NDArray[Any]:
    try:
        found: npt.NDArray[Any] = np.load(path, mmap_mode=mode, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise _mismatch(path, str(error)) from error
    return found


def _mismatch(path: Path, what: str) -> ReleaseMismatch:
    return ReleaseMismatch(f"{path}: {what}. Publish it again with `twotower embed`.")
