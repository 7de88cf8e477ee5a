"""The nightly job: embed the catalogue, index it, prove the result answers, publish it with the towers that made it.

N: items, D: item vector width, P: popularity and signal dimensions, V: D + P
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from embedder_cache.gates import (
    Gate,
    Limits,
    check_gates,
    index_gates,
    refuse_nonsense,
    rejected_gate,
    report,
    require,
    size_gate,
    unchanged_gate,
)
from embedder_cache.holdout import ask_both, holdout_gates
from embedder_cache.indexing import Asked, make_index
from embedder_cache.intake import Intake, sound_items, take_in
from embedder_cache.popularity import popularity_from_bundle, popularity_from_events
from embedder_cache.publish import publishing
from embedder_cache.reuse import Kept, kept_embeddings
from embedder_cache.signals import announced
from twotower.bundle import TOWER_FILES, Bundle, Towers
from twotower.catalogue import embed_table, in_parallel
from twotower.delta import Changes
from twotower.features import DAY_MS, Floats, Ints
from twotower.golden import GoldenQuery, golden_request
from twotower.manifest import seal
from twotower.release import CONTENT, GATES, GOLDEN, INFO, ITEMS, KIND, REJECTED, VECTORS, Address, ReleaseInfo
from twotower.scoring import answer
from twotower.signature import Signer

GOLDEN_LENGTHS = (0, 1, 2, 7, 30, 200)
GOLDEN_RESULTS = 10
SAMPLE_QUERIES, SAMPLE_EVENTS = 64, 32  # and fewer events
# A new catalogue without any event is dated like this, so that golden answers do not depend on the clock.
_GOLDEN_NOW_MS = 1_735_689_600_000  # 2025-01-01


@dataclass(frozen=True, slots=True)
class Published:
    """What one run of the job did."""

    release: str
    num_items: int
    changed: bool  # False when the same release was already there: nothing was written
    replaced: str | None  # the release that was served before
    num_embedded: int  # the others kept the vectors they had
    num_gone: int  # items of the release before that are in the catalogue no more
    num_put: int  # items that a server was told of and the file's own rows were replaced by, or did not hold
    num_deleted: int
    num_rejected: int  # rows that could not be embedded; the release's rejected.parquet says why
    gates: tuple[Gate, ...]

    def __str__(self) -> str:
        parts = [f"{self.num_items:,} items", f"{self.num_embedded:,} of them embedded anew"]
        parts += [f"{self.num_gone:,} gone"] if self.num_gone else []
        parts += [f"{self.num_rejected:,} rejected: see {REJECTED}"] if self.num_rejected else []
        return ", ".join(parts)


def build_release(
    bundle: Bundle,
    items: Path,
    store: Address,
    events: Path | None,
    on_items: Callable[[int], None] = lambda _: None,
    signals: Path | None = None,
    limits: Limits = Limits(),  # noqa: B008  # frozen
    forced: str | None = None,
    signer: Signer | None = None,
    index: Asked = "auto",
    delta: Changes = Changes(),  # noqa: B008  # frozen
) -> Published:
    """Embed, index, verify and publish `items` under `bundle`; the pointer moves only once all of it is true.

    DataError when a gate is not passed and `forced`, the operator's reason to publish all the same, is not given.

    With `events` the popularity dimension is as of the last event; without, as of the bundle's training. With `signals` theirs
    are of the day that begins with the last event, or now; without, nothing is announced. `delta` is folded into the items.
    """
    columns = bundle.towers.schema.items
    intake = take_in(items, columns, bundle.towers.config.model.item_spec, delta)
    item_ids = intake.item_ids
    if events is None:
        popularity_NP, as_of_ms, coverage = popularity_from_bundle(bundle, item_ids), None, None
    else:
        popularity_NP, as_of_ms, coverage = popularity_from_events(events, bundle, item_ids)
    popularity_NP = np.concatenate([popularity_NP, announced(signals, bundle.towers, item_ids, as_of_ms)], 1)
    with publishing(store, signer) as publication:
        directory, served = publication.directory, publication.served()
        for name in TOWER_FILES:
            shutil.copyfile(bundle.path / name, directory / name)
        kept = kept_embeddings(intake, served, bundle.towers.config.vector_space_id)
        write_items(directory, bundle, items, intake, kept, popularity_NP, on_items)
        vectors_NV = np.load(directory / VECTORS, mmap_mode="c")  # torch refuses a read-only map
        golden = golden_queries(bundle, item_ids, vectors_NV, as_of_ms)
        (directory / GOLDEN).write_bytes(msgspec.json.encode(golden))
        refuse_nonsense(vectors_NV, bundle.towers.config.model.width, golden)
        asked = None if events is None or as_of_ms is None else ask_both(events, as_of_ms, bundle, item_ids, vectors_NV, served)
        queries_QV = asked.new.queries_QV if asked else sample_queries(bundle.towers, vectors_NV, as_of_ms, SAMPLE_QUERIES)
        made = make_index(directory, np.asarray(vectors_NV), bundle.towers.config.model.width, index, queries_QV)
        info = ReleaseInfo(
            bundle_id=bundle.manifest.id,
            vector_space_id=bundle.towers.config.vector_space_id,
            num_items=len(item_ids),
            vector_width=bundle.towers.config.model.width + popularity_NP.shape[1],
            popularity_as_of_ms=as_of_ms,
            index=made.info,
            delta_sequence=intake.changes.sequence,
        )
        (directory / INFO).write_bytes(msgspec.json.encode(info))
        gates = [
            rejected_gate(len(intake.rejected), len(intake.accepted_R), limits),
            *check_gates(bundle, item_ids, vectors_NV, coverage, served, limits),
            *index_gates(made.report, served, limits),
            size_gate(directory, limits),
        ]
        if kept.num_kept:
            gates.append(unchanged_gate(vectors_NV, kept.vectors, bundle.towers.config.model.width, kept.rows_N))
        if asked:
            gates += holdout_gates(asked, bundle, item_ids, limits)
        require(gates, forced)
        (directory / GATES).write_bytes(report(gates, forced, len(item_ids), made.report))
        manifest = seal(directory, KIND, parent=bundle.manifest.id)
        release, changed = publication.publish(manifest)
    return Published(
        release,
        len(item_ids),
        changed,
        replaced=None if publication.seen.pointer is None else publication.seen.pointer.release,
        num_embedded=len(item_ids) - kept.num_kept,
        num_gone=kept.num_gone,
        num_put=len(intake.changes.put),
        num_deleted=intake.changes.num_deleted,
        num_rejected=len(intake.rejected),
        gates=tuple(gates),
    )


def write_items(
    directory: Path,
    bundle: Bundle,
    items: Path,
    intake: Intake,
    kept: Kept,
    popularity_NP: Floats,
    on_items: Callable[[int], None],
) -> None:
    """Stream the catalogue into vectors.npy [N, V], items.arrow and content.npy; memory is a few batches.

    Only what is not kept of the release before is embedded.
    """
    towers, model = bundle.towers, bundle.towers.config.model

    def embed(part: tuple[pa.Table, slice]) -> tuple[pa.Table, Floats]:
        table, place = part
        kept_n, vectors_nV = kept.rows_N[place], np.empty((len(table), shape[1]), np.float32)
        fresh_n = kept_n < 0
        vectors_nV[:, model.width :] = popularity_NP[place]
        if not fresh_n.all():
            vectors_nV[~fresh_n, : model.width] = kept.vectors[kept_n[~fresh_n], : model.width]
        if fresh_n.any():
            fresh = table.filter(pa.array(fresh_n))
            vectors_nV[fresh_n, : model.width] = embed_table(fresh, towers.embedder, model.item_spec, model.table_rows)
        return table, vectors_nV

    shape = (len(intake.item_ids), model.width + popularity_NP.shape[1])
    tables = sound_items(items, towers.schema.items, intake)
    with (directory / VECTORS).open("wb") as vectors_file, pa.OSFile(str(directory / ITEMS), "wb") as sink:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(vectors_file, header)
        writer: pa.ipc.RecordBatchFileWriter | None = None
        for table, vectors_nV in in_parallel(embed, tables):
            writer = writer or pa.ipc.new_file(sink, table.schema)
            writer.write_table(table)
            vectors_file.write(vectors_nV.data)
            on_items(len(table))
        assert writer is not None, "a catalogue without items is refused when it is taken in"
        writer.close()
    np.save(directory / CONTENT, intake.content_N)
    if len(intake.rejected):
        pq.write_table(intake.rejected, directory / REJECTED)


def golden_queries(
    bundle: Bundle, item_ids: pa.Array, vectors_NV: npt.NDArray[np.float32], as_of_ms: int | None
) -> list[GoldenQuery]:
    """Made-up histories of several lengths with the exact answers of this release."""
    rng = np.random.default_rng(0)
    model = bundle.towers.config.model
    vectors = torch.from_numpy(vectors_NV)
    now_ms = as_of_ms or _GOLDEN_NOW_MS
    result = []
    for length in GOLDEN_LENGTHS:
        rows, times = made_up_history(rng, length, len(vectors_NV), now_ms)
        request = golden_request(model, rows, times, now_ms)
        scores_N = answer(bundle.towers.contextualizer, model, vectors, [request]).dense_scores(vectors)[0]
        top = scores_N.topk(min(GOLDEN_RESULTS, len(vectors)))
        result.append(
            GoldenQuery(
                item_ids=pc.take(item_ids, pa.array(rows)).to_pylist(),
                times_ms=times.tolist(),
                now_ms=now_ms,
                top_item_ids=pc.take(item_ids, pa.array(top.indices.numpy())).to_pylist(),
                top_scores=top.values.tolist(),
            )
        )
    return result


def sample_queries(towers: Towers, vectors_NV: Floats, as_of_ms: int | None, num_queries: int) -> Floats:
    """Query vectors of made-up histories, to measure an index with."""
    rng, model, now_ms = np.random.default_rng(1), towers.config.model, as_of_ms or _GOLDEN_NOW_MS
    lengths = rng.integers(0, SAMPLE_EVENTS, num_queries)
    requests = [golden_request(model, *made_up_history(rng, n, len(vectors_NV), now_ms), now_ms) for n in lengths]
    return answer(towers.contextualizer, model, torch.from_numpy(vectors_NV), requests).vectors_QV.numpy()


def made_up_history(rng: np.random.Generator, length: int, num_items: int, now_ms: int) -> tuple[Ints, Ints]:
    """Random rows, and times of the last 60 days in order."""
    return rng.integers(0, num_items, length), np.sort(now_ms - rng.integers(1, 60 * DAY_MS, length))
