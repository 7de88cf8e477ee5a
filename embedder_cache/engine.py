"""Every item's embedding, wherever it comes from: the release before, a run that was stopped, or the embedder.

N: items, n: items of a batch, M: those of them that need embedding, D: embedding width
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedder_cache.intake import Intake, Mask, sound_items
from embedder_cache.resume import Parts
from embedder_cache.reuse import Kept
from twotower.bundle import Bundle
from twotower.catalogue import embed_table, in_parallel
from twotower.errors import EnvironmentProblem
from twotower.features import Floats
from twotower.progress import say

Embedded: TypeAlias = Iterator[tuple[pa.Table, slice, Floats]]
"""Batches of the catalogue in the order of the file: items, their place among all N, and vectors."""

Engine: TypeAlias = Callable[[Bundle, Path, Intake, Mask], Embedded]
"""What embeds the items of `todo_N`: yields every batch of `sound_items`, with vectors [M, D] of those in it to embed.

The items of one batch are embedded together, by one thread: the results of engines are bit-equal.
"""


def engine_named(name: str) -> Engine:
    """The engine behind the name that `--engine` takes; EnvironmentProblem when what it needs is not installed."""
    if name == "local":
        return embed_here
    if find_spec("ray") is None:
        raise EnvironmentProblem("--engine ray needs Ray, which is not installed: pip install 'twotower[ray]', on every node")
    from embedder_cache.ray_engine import embed_on_ray

    return embed_on_ray


def embed_here(bundle: Bundle, items: Path, intake: Intake, todo_N: Mask) -> Embedded:
    """In this process, on as many threads as torch has."""

    def embedded(part: tuple[pa.Table, slice]) -> tuple[pa.Table, slice, Floats]:
        table, place = part
        return table, place, embed_some(bundle, table, todo_N[place])

    return in_parallel(embedded, sound_items(items, bundle.towers.schema.items, intake))


def embed_some(bundle: Bundle, table: pa.Table, todo_n: Mask) -> Floats:
    """Vectors [M, D] of some items of a batch."""
    towers, model = bundle.towers, bundle.towers.config.model
    if not todo_n.any():
        return np.zeros((0, model.width), np.float32)
    return embed_table(table.filter(pa.array(todo_n)), towers.embedder, model.item_spec, model.table_rows)


def still_to_embed(intake: Intake, kept: Kept, parts: Parts) -> npt.NDArray[np.bool_]:
    """Which items no release and no stopped run has embedded, [N]; says so when a run goes on with another's work."""
    fresh_N = kept.rows_N < 0
    todo_N = fresh_N.copy()
    for place in intake.places:
        if fresh_N[place].any() and parts.read(intake.content_N[place][fresh_N[place]]) is not None:
            todo_N[place] = False
    if resumed := np.count_nonzero(fresh_N & ~todo_N):
        say(f"  going on with {resumed:,} items embedded by a run that was stopped")
    return todo_N


def item_vectors(engine: Engine, bundle: Bundle, items: Path, intake: Intake, kept: Kept, parts: Parts, todo_N: Mask) -> Embedded:
    """Batches with the vectors [n, D] of all their items; what the engine embeds is in `parts` before it is yielded."""
    for table, place, embedded_MD in engine(bundle, items, intake, todo_N):
        kept_n = kept.rows_N[place]
        fresh_n = kept_n < 0
        vectors_nD = np.empty((len(table), parts.width), np.float32)
        if not fresh_n.all():
            vectors_nD[~fresh_n] = kept.vectors[kept_n[~fresh_n], : parts.width]
        if fresh_n.any():
            vectors_nD[fresh_n] = _through(parts, intake.content_N[place][fresh_n], embedded_MD)
        yield table, place, vectors_nD


def _through(parts: Parts, content_M: npt.NDArray[np.uint64], embedded_MD: Floats) -> Floats:
    """A batch's vectors: written when they are new, else read."""
    if len(embedded_MD):
        parts.write(content_M, embedded_MD)
        return embedded_MD
    stored_MD = parts.read(content_M)
    if stored_MD is None:
        raise EnvironmentProblem(f"a file in {parts.directory} was removed or damaged meanwhile. Run the job again.")
    return stored_MD
