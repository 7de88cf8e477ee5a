"""`--engine ray`: a Ray cluster embeds the catalogue, row group by row group, in the same batches as one process.

N: items, M: items of a batch that need embedding, D: embedding width
"""

import logging
import os
import socket
from collections.abc import Generator, Iterator
from contextlib import closing
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import torch

from embedder_cache.catalogue.column_types import HeldColumns
from embedder_cache.catalogue.content_hash import content_hashes
from embedder_cache.catalogue.intake import Intake, sound_items
from embedder_cache.embedding.local_engine import Embedded, embed_here, embed_some
from twotower import errors
from twotower.artefacts.bundle import Bundle, load_bundle
from twotower.data.features import Hashes
from twotower.errors import DataError, IntegrityError, TwoTowerError
from twotower.model.catalogue import as_items, embed_table, rows_of_part
from twotower.model.kinds import TRUST_VARIABLE
from twotower.ray_cluster import cluster
from twotower.tables.ids import Mask
from twotower.tables.table import Table, open_table

BLOCK_BYTES = 2**24  # of results sent at a time: a few batches
_OTHER = "{items} is not the same on every node, or it changed while it was read. Run the job again."
# A batch's vectors are one value, so that Ray cannot split a batch.
RESULT = pa.schema(
    [("content", pa.large_binary()), ("vectors", pa.large_binary()), ("error", pa.string()), ("message", pa.string())]
)


def embed_on_ray(bundle: Bundle, items: Path, intake: Intake, todo_N: Mask) -> Embedded:
    """The engine `ray`: embeds on the cluster that RAY_ADDRESS names, else on this machine with a process for each core.

    The workers read bundle and items under the same paths. This process reads the items too and compares hashes with every
    result: DataError when a worker read another file.
    """
    width = bundle.towers.config.model.width
    groups = row_groups(items, intake, todo_N)
    if not groups:  # as on most nights of a small catalogue: starting a cluster would take longer
        yield from embed_here(bundle, items, intake, todo_N)
        return
    with cluster(), closing(_results(bundle, items.resolve(), intake.changes.held, groups)) as results:
        num_in_file = np.count_nonzero(intake.accepted_R[: len(intake.accepted_R) - len(intake.changes.put)])
        for table, place in sound_items(items, bundle.towers.schema.items, intake):
            todo_n = todo_N[place]
            vectors_MD = np.zeros((0, width), np.float32)
            if place.start >= num_in_file:  # items put through a server: few, and in no row group
                vectors_MD = embed_some(bundle, table, todo_n)
            elif todo_n.any():
                content, vectors = next(results, (b"", b""))
                if content != intake.content_N[place][todo_n].tobytes():
                    raise DataError(_OTHER.format(items=items))
                vectors_MD = np.frombuffer(vectors, np.float32).reshape(-1, width)
            yield table, place, vectors_MD
        if next(results, None) is not None:
            raise DataError(_OTHER.format(items=items))


def row_groups(items: Path, intake: Intake, todo_N: Mask) -> list[dict[str, object]]:
    """The units of work: row groups with items to embed, and which rows these are, as packed bits."""
    todo_R = np.zeros(len(intake.accepted_R), bool)
    todo_R[intake.accepted_R] = todo_N
    groups: list[dict[str, object]] = []
    start = 0
    for number, part in enumerate(open_table(items, "items").parts):
        for group in part.fragment.row_groups:
            todo_B = todo_R[start : start + group.num_rows]
            start += group.num_rows
            if todo_B.any():
                groups.append({"file": number, "group": group.id, "todo": np.packbits(todo_B).tobytes()})
    return groups


class Worker:
    """A process of the cluster. It loads the embedder once and embeds row groups on one thread."""

    def __init__(self, bundle: Path, bundle_id: str, items: Path, held: HeldColumns, users_own: str | None) -> None:
        torch.set_num_threads(1)
        if users_own is not None:  # the operator's trust holds on every node
            os.environ[TRUST_VARIABLE] = users_own
        self.path, self.bundle_id, self.items, self.held = bundle, bundle_id, items, held

    @cached_property
    def bundle(self) -> Bundle:
        """The job's bundle; IntegrityError when the path holds another."""
        bundle = load_bundle(self.path)
        if bundle.manifest.id != self.bundle_id:
            raise IntegrityError(
                f"{self.path} holds {bundle.manifest.id}, not {self.bundle_id}. Give every node the same bundle."
            )
        return bundle

    @cached_property
    def table(self) -> Table:
        """The catalogue, opened once per worker."""
        return open_table(self.items, "items")

    def __call__(self, groups: pa.Table) -> Iterator[pa.Table]:
        """A row of RESULT for each batch with items to embed, or one row with an error that the operator can put right."""
        try:
            for group in groups.to_pylist():
                for content_M, vectors in self.embed(**group):
                    yield _row(content_M.tobytes(), vectors, None, None)
        except TwoTowerError as error:
            yield _row(None, None, type(error).__name__, f"{error} (on the node {socket.gethostname()})")

    def embed(self, file: int, group: int, todo: bytes) -> Iterator[tuple[Hashes, bytes]]:
        """Content hashes and vectors of the items to embed, for each batch of a row group."""
        towers, model = self.bundle.towers, self.bundle.towers.config.model
        columns = towers.schema.items
        parts = self.table.parts
        if file >= len(parts) or group >= parts[file].fragment.num_row_groups:
            raise DataError(_OTHER.format(items=self.items))
        todo_B = np.unpackbits(np.frombuffer(todo, np.uint8)).astype(bool)
        start = 0
        for batch in rows_of_part(self.table, parts[file], columns, group):
            todo_n = todo_B[start : start + len(batch)]
            start += len(batch)
            if todo_n.any():
                rows, _ = self.held.apply(batch)
                table = as_items(rows.filter(pa.array(todo_n)), columns)
                vectors_MD = embed_table(table, towers.embedder, model.item_spec, model.table_rows)
                yield content_hashes(table), vectors_MD.tobytes()


def _results(bundle: Bundle, items: Path, held: HeldColumns, groups: list[dict[str, object]]) -> Generator[tuple[bytes, bytes]]:
    """Content hashes and vectors of each batch, in the order of the file."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # here, because getting the context resets it
    num_workers = max(1, min(len(groups), int(ray.cluster_resources().get("CPU", 1))))
    work = ray.data.from_items(groups, override_num_blocks=len(groups)).map_batches(
        Worker,
        fn_constructor_args=(bundle.path.resolve(), bundle.manifest.id, items, held, os.environ.get(TRUST_VARIABLE)),
        batch_format="pyarrow",
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=num_workers),
        num_cpus=1,
    )
    for result in work.iter_rows():
        if result["error"] is not None:
            raise vars(errors)[result["error"]](result["message"])
        yield result["content"], result["vectors"]


def _row(*values: bytes | str | None) -> pa.Table:
    return pa.table([[value] for value in values], schema=RESULT)
