"""The embedding of every item: kept from the release before, found from a stopped run, or computed in this process.

N: items, n: items of a batch, M: those of them that need embedding, D: embedding width
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedder_cache.catalogue.intake import Intake, sound_items
from embedder_cache.embedding.unchanged_items import Kept
from twotower.artefacts.bundle import Bundle
from twotower.data.features import EncodedRows, FeatureSpec, Floats
from twotower.device import Device, Needs, bytes_of_weights, with_room
from twotower.model.catalogue import embed_content, embed_table, encode_items, in_parallel
from twotower.model.embed_stream import embed_stream
from twotower.model.embedder import Embedder
from twotower.tables.ids import Mask

Embedded: TypeAlias = Iterator[tuple[pa.Table, slice, Floats]]
"""Batches of the catalogue in the order of the file: items, their place among all N, and vectors."""

EmbedTable: TypeAlias = Callable[[pa.Table, Embedder, FeatureSpec, int], Floats]

Engine: TypeAlias = Callable[[Bundle, Path, Intake, Mask], Embedded]
"""Embeds the items of `todo_N`: yields every batch of `sound_items` with vectors [M, D] of those items of it.

One thread embeds the items of a batch together, so that all engines give bit-equal results on a CPU; a GPU rounds otherwise.
"""


def embed_here(bundle: Bundle, items: Path, intake: Intake, todo_N: Mask, embed: EmbedTable | None = None) -> Embedded:
    """The engine `local`: embeds in this process, on as many threads as torch uses."""

    def embedded(part: tuple[pa.Table, slice]) -> tuple[pa.Table, slice, Floats]:
        table, place = part
        return table, place, embed_some(bundle, table, todo_N[place], embed)

    return in_parallel(embedded, sound_items(items, bundle.towers.schema.items, intake))


def embed_content_here(bundle: Bundle, items: Path, intake: Intake, todo_N: Mask) -> Embedded:
    """The engine for a catalogue that the model was not trained on: its ids mean nothing to the model, so they are hidden."""
    return embed_here(bundle, items, intake, todo_N, embed_content)


def embed_on(device: Device) -> Engine:
    """The engine `local` on a device."""
    return partial(embed_in_turn, device) if device.is_gpu else embed_here


def embed_in_turn(device: Device, bundle: Bundle, items: Path, intake: Intake, todo_N: Mask) -> Embedded:
    """The engine on a GPU: threads encode the items, and the embedder, copied there, embeds one batch after the other.

    EnvironmentProblem for a GPU without room for the embedder.
    """
    towers, model = bundle.towers, bundle.towers.config.model
    if device.is_gpu and not with_room(device, Needs(weights=bytes_of_weights(towers.embedder))).is_gpu:
        yield from embed_here(bundle, items, intake, todo_N)
        return

    def encoded(part: tuple[pa.Table, slice]) -> tuple[tuple[pa.Table, slice], EncodedRows]:
        table, place = part
        return part, encode_items(table.filter(pa.array(todo_N[place])), model.item_spec, model.table_rows)

    embedder = deepcopy(towers.embedder).to(device.torch_device)  # the towers stay on the CPU, where the golden queries are asked
    parts = in_parallel(encoded, sound_items(items, towers.schema.items, intake))
    for (table, place), vectors_MD in embed_stream(embedder, parts, device):
        yield table, place, vectors_MD if len(vectors_MD) else np.zeros((0, model.width), np.float32)


def embed_some(bundle: Bundle, table: pa.Table, todo_n: Mask, embed: EmbedTable | None = None) -> Floats:
    """Vectors [M, D] of the items of a batch that `todo_n` marks, by `embed_table` or what is given instead."""
    towers, model = bundle.towers, bundle.towers.config.model
    if not todo_n.any():
        return np.zeros((0, model.width), np.float32)
    return (embed or embed_table)(table.filter(pa.array(todo_n)), towers.embedder, model.item_spec, model.table_rows)


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
