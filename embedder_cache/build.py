"""The nightly job: embed the catalogue, build the index, check the answers, and publish a release with the towers that made it.

N: items, D: item vector width, P: popularity and signal dimensions, V: D + P
"""

import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from embedder_cache.catalogue.intake import reasons, take_in
from embedder_cache.catalogue.opened_release import OpenedRelease
from embedder_cache.catalogue.popularity import expect_new_items, popularity_from_bundle, popularity_from_events
from embedder_cache.catalogue.signals import announced
from embedder_cache.checks.gates import (
    Gate,
    Limits,
    check_gates,
    column_gates,
    index_gates,
    log_gates,
    refuse_nonsense,
    rejected_gate,
    report,
    require,
    size_gate,
    unchanged_gate,
)
from embedder_cache.checks.holdout import ask_both, holdout_gates
from embedder_cache.checks.index_choice import RequestedKind, make_index, refuse_without_gpu
from embedder_cache.embedding.changed_items import link, patch_on
from embedder_cache.embedding.interrupted_run import work_directory
from embedder_cache.embedding.item_files import embed_items
from embedder_cache.embedding.local_engine import Engine, embed_content_here, embed_here
from embedder_cache.embedding.unchanged_items import kept_embeddings
from embedder_cache.maps.process import MapOptions, draw_map
from embedder_cache.publish import publishing
from twotower.artefacts.bundle import TOWER_FILES, Bundle, Towers
from twotower.artefacts.item_changes import Changes
from twotower.artefacts.manifest import seal
from twotower.artefacts.parts import read_items
from twotower.artefacts.release import GATES, GOLDEN, INFO, KIND, REJECTED, VECTORS, Address, ReleaseInfo
from twotower.artefacts.signature import Signer
from twotower.data.features import DAY_MS, Floats, Ints
from twotower.device import ON_CPU, Device
from twotower.errors import ArtefactError
from twotower.model.catalogue import in_parallel
from twotower.model.golden import GoldenQuery, golden_request
from twotower.model.scoring import answer
from twotower.progress import say, step

GOLDEN_LENGTHS = (0, 1, 2, 7, 30, 200)
GOLDEN_RESULTS = 10
SAMPLE_QUERIES, SAMPLE_EVENTS = 64, 32  # made-up histories, and events of the longest
# The moment of golden queries when no events are given: a fixed one, so that golden answers do not depend on the clock.
_GOLDEN_NOW_MS = 1_735_689_600_000  # 2025-01-01


@dataclass(frozen=True, slots=True)
class Published:
    """What one run of the nightly job did."""

    release: str
    num_items: int
    changed: bool  # False when this release was current already, so that nothing was written
    served: OpenedRelease | None  # the release that was served before; None when there was none to compare with
    num_embedded: int  # items embedded by this run; the others kept the vectors they had
    embed_s: float  # seconds of embedding; the rest of the job reads, compares answers and hashes
    num_gone: int  # items of the release before that the catalogue no longer has
    num_put: int  # items put through a server: each replaces its row of the file or adds one
    num_deleted: int  # items deleted through a server
    num_rejected: int  # rows that could not be embedded: rejected.parquet of the release says why
    num_points: int  # of the map; 0 when the release has none
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
    signals: Path | None = None,
    limits: Limits = Limits(),  # noqa: B008  # frozen
    forced: str | None = None,
    signer: Signer | None = None,
    index: RequestedKind = "auto",
    engine: Engine = embed_here,
    delta: Changes = Changes(),  # noqa: B008  # frozen
    device: Device = ON_CPU,
    aside: bool = False,
    by_content: bool = False,
    map_options: MapOptions | None = None,
    most_changed: float = 0.10,
    prove: bool = False,
) -> Published:
    """Embed `items` with `bundle`, build the index, check and publish the release. The pointer moves last, and not if `aside`.

    DataError when a gate fails, unless `forced` gives the operator's reason to publish anyway.

    With `events`, popularity is as of the last event; without them, as of the bundle's training. With `signals`, the release has
    those of the day that begins with the last event, or now; without a file they are zero. `delta` holds items that were put
    or deleted through a server. Embedded items stay on disk until a release is published, so that the run after a stopped one
    continues with them. An index of a kind for GPUs is built on `device`, and `auto` chooses one for it. `by_content` embeds
    here, without the ids: for a catalogue that the bundle was not trained on. `map_options` asks for a map; when
    drawing it fails, the release goes out without one. Up to a share of `most_changed`, changed items are written alone, beside
    links to the files of the served release, which are read again only to `prove` them.
    """
    refuse_without_gpu(index, device)  # now, and not after hours of embedding
    columns = bundle.towers.schema.items
    if map_options:
        map_options.require_column(columns)
    space, engine = bundle.towers.config.vector_space_id, embed_content_here if by_content else engine
    work_name = f"{space}-content" if by_content else space  # vectors that were embedded with ids and without are never mixed
    with publishing(store, signer, prove) as publication:
        directory, served = publication.directory, publication.served
        with step("read items"):
            intake = take_in(items, columns, bundle.towers.config.model.item_spec, delta, served_columns(served))
            for line in intake.changes.held.lines:
                say(f"  {line}")
        item_ids = intake.item_ids
        if events is None:
            popularity = popularity_from_bundle(bundle, item_ids)
            say_popularity_of_training(served)
        else:
            with step("count events"):
                popularity = popularity_from_events(events, bundle, item_ids)
        as_of_ms = popularity.as_of_ms
        if as_of_ms is not None and time.time_ns() // 1_000_000 - as_of_ms > limits.log_age_days * DAY_MS:
            say(f"  the last event is of {datetime.fromtimestamp(as_of_ms / 1000, UTC):%Y-%m-%d}: popularity is as of then")
        popularity_NP = np.concatenate([popularity.log_NP, announced(signals, bundle.towers, item_ids, as_of_ms)], 1)
        copy_towers(bundle, served, directory)
        kept = kept_embeddings(intake, served, space, by_content)
        patch = patch_on(served, bundle, items, intake, kept, popularity_NP.shape[1], most_changed)
        started, work_path = time.monotonic(), work_directory(publication.store.local) / work_name
        with step("embed items", total=len(item_ids), unit="items") as done:
            job = (directory, intake, popularity_NP, done.advance)
            if patch:
                num_embedded = patch.write(engine, bundle, items, *job)
            else:
                num_embedded = embed_items(engine, bundle, items, work_path, kept, *job)
        if len(intake.rejected):
            pq.write_table(intake.rejected, directory / REJECTED)
        embed_s = time.monotonic() - started
        if patch:
            vectors_NV = patch.vectors(directory, popularity_NP)
            expect_new_items(vectors_NV, bundle, item_ids, popularity.age_days_N)
            num_parts = patch.finish(directory, vectors_NV[:, bundle.towers.config.model.width :])
        else:
            expect_new_items(np.load(directory / VECTORS, mmap_mode="r+"), bundle, item_ids, popularity.age_days_N)
            vectors_NV, num_parts = np.load(directory / VECTORS, mmap_mode="c"), 0  # torch refuses a read-only map
        # On one thread, like the vectors: several threads may round otherwise, and every night would publish a change.
        (golden,) = in_parallel(lambda ids: golden_queries(bundle, ids, vectors_NV, as_of_ms), [item_ids])
        (directory / GOLDEN).write_bytes(msgspec.json.encode(golden))
        refuse_nonsense(vectors_NV, bundle.towers.config.model.width, golden)
        holdout = None
        if events is not None and as_of_ms is not None:
            with step("ask real requests"):
                holdout = ask_both(events, as_of_ms, bundle, item_ids, vectors_NV, served)
        queries_QV = holdout.new.queries_QV if holdout else sample_queries(bundle.towers, vectors_NV, as_of_ms, SAMPLE_QUERIES)
        with step("build the index"):
            made = make_index(
                directory,
                np.asarray(vectors_NV),
                bundle.towers.config.model.width,
                index,
                queries_QV,
                device=device,
                stored=num_parts == 0,
            )
        info = ReleaseInfo(
            bundle_id=bundle.manifest.id,
            vector_space_id=bundle.towers.config.vector_space_id,
            num_items=len(item_ids),
            vector_width=bundle.towers.config.model.width + popularity_NP.shape[1],
            popularity_as_of_ms=as_of_ms,
            index=made.info,
            delta_sequence=intake.changes.sequence,
            num_parts=num_parts,
            by_content=by_content,
        )
        (directory / INFO).write_bytes(msgspec.json.encode(info))
        num_points = draw_map(directory, served, map_options) if map_options else 0
        gates = [
            rejected_gate(len(intake.rejected), len(intake.accepted_R), limits, next(iter(reasons(intake.rejected)), None)),
            *check_gates(bundle, item_ids, vectors_NV, popularity.coverage, served, limits),
            *column_gates(read_items(directory, info), columns, served, limits),
            *index_gates(made.report, served, limits),
            size_gate(directory, limits),
        ]
        if as_of_ms is not None:
            gates += log_gates(as_of_ms, time.time_ns() // 1_000_000, served, limits)
        if (kept.rows_N >= 0).any():
            gates.append(unchanged_gate(vectors_NV, kept.vectors, bundle.towers.config.model.width, kept.rows_N))
        if holdout:
            gates += holdout_gates(holdout, bundle, item_ids, limits)
        require(gates, forced)
        (directory / GATES).write_bytes(report(gates, forced, len(item_ids), made.report))
        with step("publish"):
            manifest = seal(directory, KIND, parent=bundle.manifest.id, digest=publication.digest)
            release, changed = publication.publish(manifest, aside)
        shutil.rmtree(work_directory(publication.store.local), ignore_errors=True)
    return Published(
        release,
        len(item_ids),
        changed,
        served=served,
        num_embedded=num_embedded,
        embed_s=embed_s,
        num_gone=kept.num_gone,
        num_put=len(intake.changes.put),
        num_deleted=intake.changes.num_deleted,
        num_rejected=len(intake.rejected),
        num_points=num_points,
        gates=tuple(gates),
    )


def served_columns(served: OpenedRelease | None) -> pa.Schema | None:
    """The columns of the item table that is served now; None when there is none, or it cannot be read."""
    try:
        return None if served is None else served.items.schema
    except (ArtefactError, OSError, pa.ArrowInvalid):
        return None


def say_popularity_of_training(served: OpenedRelease | None) -> None:
    """Warn when the release that is served counted its popularity from events, and tonight none are given."""
    try:
        as_of_ms = served.info.popularity_as_of_ms if served is not None else None
    except (ArtefactError, OSError):
        return
    if as_of_ms is not None:
        moment = datetime.fromtimestamp(as_of_ms / 1000, UTC)
        say(f"  WARNING: no --events given, so popularity is that of training; the served release's is of {moment:%Y-%m-%d}")


def copy_towers(bundle: Bundle, served: OpenedRelease | None, directory: Path) -> None:
    """Put the bundle's towers into the directory: links to the served release's, if they are the same."""
    before = served.manifest.files if served is not None and served.manifest is not None else {}
    for name in TOWER_FILES:
        if served is not None and before.get(name) == bundle.manifest.files[name]:
            link(served.path / name, directory / name)
        else:
            shutil.copyfile(bundle.path / name, directory / name)


def golden_queries(
    bundle: Bundle, item_ids: pa.Array, vectors_NV: npt.NDArray[np.float32], as_of_ms: int | None
) -> list[GoldenQuery]:
    """Golden queries: made-up histories of several lengths with this release's exact answers."""
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
    """Query vectors of made-up histories, to measure an index with when there are no events."""
    rng, model, now_ms = np.random.default_rng(1), towers.config.model, as_of_ms or _GOLDEN_NOW_MS
    lengths = rng.integers(0, SAMPLE_EVENTS, num_queries)
    requests = [golden_request(model, *made_up_history(rng, n, len(vectors_NV), now_ms), now_ms) for n in lengths]
    return answer(towers.contextualizer, model, torch.from_numpy(vectors_NV), requests).vectors_QV.numpy()


def made_up_history(rng: np.random.Generator, length: int, num_items: int, now_ms: int) -> tuple[Ints, Ints]:
    """Random item rows, and random times of the last 60 days in ascending order."""
    return rng.integers(0, num_items, length), np.sort(now_ms - rng.integers(1, 60 * DAY_MS, length))
