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
import torch

from embedder_cache.gates import Gate, Limits, check_gates, index_gates, refuse_nonsense, report, require
from embedder_cache.indexing import Asked, make_index
from embedder_cache.popularity import popularity_from_bundle, popularity_from_events
from embedder_cache.publish import make_store, only_publisher, publish, served
from embedder_cache.signals import announced
from twotower.bundle import TOWER_FILES, Bundle, Towers
from twotower.catalogue import embed_catalogue, read_item_ids
from twotower.errors import DataError
from twotower.features import DAY_MS, Floats, Ints
from twotower.golden import GoldenQuery, golden_request
from twotower.manifest import seal, staging
from twotower.release import GATES, GOLDEN, INFO, ITEMS, KIND, VECTORS, ReleaseInfo
from twotower.scoring import answer

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
    gates: tuple[Gate, ...]


def build_release(
    bundle: Bundle,
    items: Path,
    store: Path,
    events: Path | None,
    on_items: Callable[[int], None] = lambda _: None,
    signals: Path | None = None,
    limits: Limits = Limits(),  # noqa: B008  # frozen
    forced: str | None = None,
    index: Asked = "auto",
) -> Published:
    """Embed, index, verify and publish `items` under `bundle`; the pointer moves only once all of it is true.

    DataError when a gate is not passed and `forced`, the operator's reason to publish all the same, is not given.

    With `events` the popularity dimension is as of the last event; without, as of the bundle's training. With `signals` theirs
    are of the day that begins with the last event, or now; without, nothing is announced.
    """
    columns = bundle.towers.schema.items
    item_ids = read_item_ids(items, columns)
    if events is None:
        popularity_NP, as_of_ms, coverage = popularity_from_bundle(bundle, item_ids), None, None
    else:
        popularity_NP, as_of_ms, coverage = popularity_from_events(events, bundle, item_ids)
    popularity_NP = np.concatenate([popularity_NP, announced(signals, bundle.towers, item_ids, as_of_ms)], 1)
    make_store(store)
    with only_publisher(store), staging(store / "releases") as directory:
        for name in TOWER_FILES:
            shutil.copyfile(bundle.path / name, directory / name)
        write_vectors(directory, bundle, items, popularity_NP, on_items)
        vectors_NV = np.load(directory / VECTORS, mmap_mode="c")  # torch refuses a read-only map
        golden = golden_queries(bundle, item_ids, vectors_NV, as_of_ms)
        (directory / GOLDEN).write_bytes(msgspec.json.encode(golden))
        refuse_nonsense(vectors_NV, bundle.towers.config.model.width, golden)
        queries_QV = sample_queries(bundle.towers, vectors_NV, as_of_ms, SAMPLE_QUERIES)
        made = make_index(directory, np.asarray(vectors_NV), bundle.towers.config.model.width, index, queries_QV)
        info = ReleaseInfo(
            bundle_id=bundle.manifest.id,
            vector_space_id=bundle.towers.config.vector_space_id,
            num_items=len(item_ids),
            vector_width=bundle.towers.config.model.width + popularity_NP.shape[1],
            popularity_as_of_ms=as_of_ms,
            index=made.info,
        )
        (directory / INFO).write_bytes(msgspec.json.encode(info))
        gates = [
            *check_gates(bundle, item_ids, vectors_NV, coverage, served(store), limits),
            *index_gates(made.report, limits),
        ]
        require(gates, forced)
        (directory / GATES).write_bytes(report(gates, forced, len(item_ids), made.report))
        manifest = seal(directory, KIND, parent=bundle.manifest.id)
        release, changed = publish(store, directory, manifest)
    return Published(release, len(item_ids), changed, tuple(gates))


def write_vectors(directory: Path, bundle: Bundle, items: Path, popularity_NP: Floats, on_items: Callable[[int], None]) -> None:
    """Stream the catalogue into vectors.npy [N, V] and items.arrow; memory is one batch."""
    towers, model = bundle.towers, bundle.towers.config.model
    shape = (len(popularity_NP), model.width + popularity_NP.shape[1])
    vectors_NV = np.lib.format.open_memmap(directory / VECTORS, mode="w+", dtype=np.float32, shape=shape)
    vectors_NV[:, model.width :] = popularity_NP
    done = 0
    writer: pa.ipc.RecordBatchFileWriter | None = None
    stream = embed_catalogue(items, towers.schema.items, towers.embedder, model.item_spec, model.table_rows, on_items)
    with pa.OSFile(str(directory / ITEMS), "wb") as sink:
        for table, part in stream:
            writer = writer or pa.ipc.new_file(sink, table.schema)
            writer.write_table(table)
            if done + len(part) <= len(vectors_NV):
                vectors_NV[done : done + len(part), : model.width] = part
            done += len(part)
        assert writer is not None, "stream_items refuses an empty catalogue"
        writer.close()
    if done != len(popularity_NP):
        raise DataError(f"{items} changed while it was read: {len(popularity_NP)} items, then {done}. Run the job again.")
    vectors_NV.flush()


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
