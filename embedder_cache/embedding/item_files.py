"""Writes the files of items and their vectors while they are embedded: those of all items, or those of the changed ones.

N: items, n: items of a batch, D: embedding width, V: D + popularity dimensions
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from embedder_cache.catalogue.intake import Intake
from embedder_cache.embedding.interrupted_run import Note, Work
from embedder_cache.embedding.local_engine import Engine, item_vectors, still_to_embed
from embedder_cache.embedding.unchanged_items import Kept
from twotower.artefacts.bundle import Bundle
from twotower.artefacts.release import CONTENT, ITEMS, VECTORS
from twotower.data.features import Floats, Hashes
from twotower.progress import say


@dataclass(frozen=True, slots=True)
class ItemFiles:
    """The files of some items, in the order of their rows."""

    vectors: Path
    items: Path
    content: Path

    @classmethod
    def within(cls, directory: Path, names: tuple[str, str, str] = (VECTORS, ITEMS, CONTENT)) -> "ItemFiles":
        """Files of these names, by default those of all items."""
        return cls(*(directory / name for name in names))


def embed_items(
    engine: Engine,
    bundle: Bundle,
    items: Path,
    work_path: Path,
    kept: Kept,
    directory: Path,
    intake: Intake,
    popularity_NP: Floats,
    on_items: Callable[[int], None],
) -> int:
    """Write every item and its vector. Returns how many items this run embedded: kept ones and those of a stopped run aside.

    `work_path` is where a stopped run left its own.
    """
    width, fresh_N = bundle.towers.config.model.width, kept.rows_N < 0
    work = Work(work_path, width)
    found = work.find(intake, fresh_N)
    num_to_embed = int(np.count_nonzero(still_to_embed(intake, kept, found)))
    if resumed := int(np.count_nonzero(fresh_N)) - num_to_embed:
        say(f"  going on with {resumed:,} items embedded by a run that was stopped")
    batches, files = item_vectors(engine, bundle, items, intake, kept, found), ItemFiles.within(directory)
    with files.vectors.open("wb") as file, work.journal(files.vectors, intake, fresh_N) as note:
        write_items(files, file, batches, popularity_NP, intake.content_N, width, note, on_items)
    return num_to_embed


def write_items(
    files: ItemFiles,
    vectors_file: BinaryIO,
    batches: Iterable[tuple[pa.Table, slice, Floats]],
    popularity_NP: Floats,
    content_N: Hashes,
    width: int,
    note: Note,
    on_items: Callable[[int], None],
) -> None:
    """Stream items into vectors [N, V], item table and content hashes with a few batches in memory."""
    shape = (len(popularity_NP), width + popularity_NP.shape[1])
    with pa.OSFile(str(files.items), "wb") as sink:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(vectors_file, header)
        writer: pa.ipc.RecordBatchFileWriter | None = None
        for table, place, vectors_nD in batches:
            writer = writer or pa.ipc.new_file(sink, table.schema)
            writer.write_table(table)
            rows_nV, offset = np.concatenate([vectors_nD, popularity_NP[place]], 1, dtype=np.float32), vectors_file.tell()
            vectors_file.write(rows_nV.data)
            vectors_file.flush()
            note(place, offset, rows_nV)
            on_items(len(table))
        assert writer is not None, "a catalogue without items is refused when it is taken in"
        writer.close()
    np.save(files.content, content_N)
