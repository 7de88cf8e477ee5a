"""The embedding of every item: kept from the release before, found from a stopped run, or computed in this process.

N: items, n: items of a batch, M: those of them that need embedding, D: embedding width
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedder_cache.catalogue.intake import Intake, sound_items
from embedder_cache.embedding.unchanged_items import Kept
from twotower.artefacts.bundle import Bundle
from twotower.data.features import Floats
from twotower.model.catalogue import embed_table, in_parallel
from twotower.tables.ids import Mask

Embedded: TypeAlias = Iterator[tuple[pa.Table, slice, Floats]]
"""Batches of the catalogue in the order of the file: items, their place among all N, and vectors."""

Engine: TypeAlias = Callable[[Bundle, Path, Intake, Mask], Embedded]
"""Embeds the items of `todo_N`: yields every batch of `sound_items` with vectors [M, D] of those items of it.

One thread embeds the items of a batch together, so that all engines give bit-equal results.
"""


def embed_here(bundle: Bundle, items: Path, intake: Intake, todo_N: Mask) -> Embedded:
    """The engine `local`: embeds in this process, on as many threads as torch uses."""

    def embedded(part: tuple[pa.Table, slice]) -> tuple[pa.Table, slice, Floats]:
        table, place = part
        return table, place, embed_some(bundle, table, todo_N[place])

    return in_parallel(embedded, sound_items(items, bundle.towers.schema.items, intake))


def embed_some(bundle: Bundle, table: pa.Table, todo_n: Mask) -> Floats:
    """Vectors [M, D] of the items of a batch that `todo_n` marks."""
    towers, model = bundle.towers, bundle.towers.config.model
    if not todo_n.any():
        return np.zeros((0, model.width), np.float32)
    return embed_table(table.filter(pa.array(todo_n)), towers.embedder, model.item_spec, model.table_rows)


def item_vectors(engine: Engine, bundle: Bundle, items: Path, intake: Intake, kept: Kept, found: dict[int, Floats]) -> Embedded:
    """Batches with the vectors [n, D] of all their items: from a stopped run, else kept or embedded by the engine."""
    width = bundle.towers.config.model.width
    for table, place, embedded_MD in engine(bundle, items, intake, still_to_embed(intake, kept, found)):
        if place.start in found:
            yield table, place, found[place.start]
            continue
        kept_n = kept.rows_N[place]
        fresh_n = kept_n < 0
        vectors_nD = np.empty((len(table), width), np.float32)
        if not fresh_n.all():
            vectors_nD[~fresh_n] = kept.vectors[kept_n[~fresh_n], :width]
        vectors_nD[fresh_n] = embedded_MD
        yield table, place, vectors_nD


def still_to_embed(intake: Intake, kept: Kept, found: dict[int, Floats]) -> npt.NDArray[np.bool_]:
    """Which items were embedded neither in the release before nor by a stopped run, [N]."""
    todo_N: npt.NDArray[np.bool_] = kept.rows_N < 0
    for place in intake.places:
        if place.start in found:
            todo_N[place] = False
    return todo_N
