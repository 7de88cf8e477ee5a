"""Removes events from the Parquet files that training and the nightly job read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower.artefacts.manifest import sync
from twotower.data.schema import EventColumns
from twotower.errors import DataError, EnvironmentProblem
from twotower.tables.left_out import LeftOut
from twotower.tables.plain import as_plain, plain_type
from twotower.tables.times import TimeColumn

Mask = npt.NDArray[np.bool_]
Chosen = Callable[[pa.Table], Mask]  # which rows are to be removed


def remove_user(path: Path, columns: EventColumns, user_id: str) -> int:
    """Remove the events of a user from a file, or from all files of a directory; returns how many there were."""

    def chosen(table: pa.Table) -> Mask:
        texts = _plain(table, columns.user_id).cast(pa.string())
        found: Mask = pc.equal(texts, user_id).fill_null(False).to_numpy(zero_copy_only=False)
        return found

    return _remove(path, [columns.user_id], lambda _: chosen)


def remove_old(path: Path, columns: EventColumns, before_ms: int) -> int:
    """Remove events that are older than a moment; returns how many there were. Events without a usable time stay."""

    def chosen_of(file: Path) -> Chosen:
        times = TimeColumn(columns.timestamp, LeftOut())
        times.begin(file)

        def chosen(table: pa.Table) -> Mask:
            if not len(table):
                return np.zeros(0, bool)
            times_ms_E, is_time_E = times.read(_plain(table, columns.timestamp))
            old: Mask = is_time_E & (times_ms_E < before_ms)
            return old

        return chosen

    return _remove(path, [columns.timestamp], chosen_of)


def _plain(table: pa.Table, name: str) -> pa.Array:
    """A column in the plain type that training reads it in."""
    column = table.column(name).combine_chunks()
    target = plain_type(column.type)
    if target is None:
        raise DataError(f"column {name!r} holds {column.type}, which cannot be read")
    return as_plain(column, target)


def _remove(path: Path, columns: list[str], chosen_of: Callable[[Path], Chosen]) -> int:
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise DataError(f"{path} is not there, or holds no Parquet files")
    return sum(_rewrite(file, columns, chosen_of) for file in files)


def _rewrite(file: Path, columns: list[str], chosen_of: Callable[[Path], Chosen]) -> int:
    """Rewrite a file without the chosen rows, unless there are none. The new file takes the old one's place as a whole."""
    try:
        with pq.ParquetFile(file) as source:
            if missing := set(columns) - set(source.schema_arrow.names):
                raise DataError(f"{file} has no column {missing.pop()!r}: name the right --schema")
            chosen = chosen_of(file)
            groups = range(source.num_row_groups)
            counts = [int(chosen(source.read_row_group(group, columns)).sum()) for group in groups]
            if sum(counts) == 0:
                return 0
            staged, chosen = file.with_name(f".{file.name}.staged"), chosen_of(file)
            codec = source.metadata.row_group(0).column(0).compression.lower()
            with pq.ParquetWriter(staged, source.schema_arrow, compression="none" if codec == "uncompressed" else codec) as out:
                for group in groups:
                    table = source.read_row_group(group)
                    out.write_table(table.filter(pa.array(~chosen(table))))
        sync(staged)
        staged.replace(file)
        sync(file.parent)
    except (OSError, pa.ArrowInvalid) as error:
        raise EnvironmentProblem(f"cannot remove events from {file}: {error}") from error
    return sum(counts)
