"""Items that are put or deleted while a release is served: stored, embedded by the release's embedder, and served at once.

A served release is one immutable `LoadedRelease`; a change makes a new one that replaces it. The new one answers like a release
that the nightly job would build from the same catalogue: a deleted item is gone, an item that replaces another one keeps its
popularity and signals, and a new item gets the popularity of the bought items most like it.

N: rows of the release, A: rows added, V: vector width, D: embedding width, P: popularity and signal dimensions
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import torch

from service.api.codec import decode
from service.api.errors import ApiError
from service.api.schemas import Feature, Rejected, check_id
from service.release.filters import Filters, JoinedFilters
from service.release.item_rows import ItemRows
from service.release.loaded import Added, LoadedRelease
from twotower.artefacts.item_changes import Changed, DeltaStore
from twotower.data.faults import faulty_features
from twotower.data.features import Floats
from twotower.data.new_items import BoughtItems, with_expected
from twotower.data.raw_items import Features, item_table
from twotower.index.scan import Float32Rows, Scan
from twotower.index.search import Index
from twotower.model.catalogue import ID_FIELD, embed_content, embed_table

T = TypeVar("T")
_log = logging.getLogger("twotower.items")

_item = msgspec.json.Decoder(dict[str, Feature])
_id = msgspec.json.Decoder(str)


class ItemChanges:
    """The changed items of the served catalogue. Changes are made one after the other, and stored before they are served."""

    def __init__(self, store: DeltaStore, max_items: int) -> None:
        self.one_at_a_time = asyncio.Lock()  # held while a change is made, and while releases are swapped
        self._store, self._max_items = store, max_items
        self._thread = ThreadPoolExecutor(1, "delta")

    async def stored(self, release: LoadedRelease) -> Changed:
        """The changes in the file that a release was built without."""
        return (await self._call(lambda: self._store.after(release.info.delta_sequence))).items

    async def settle(self, release: LoadedRelease) -> None:
        """Note that this release is served from now on, so that changes which no release needs any more are deleted."""
        await self._call(lambda: self._store.settle(release.info.delta_sequence))

    async def write(self, changes: Changed) -> None:
        """Store changes; they are on the disk when this returns."""
        await self._call(lambda: self._store.write(changes))

    async def validate_items(
        self, base: LoadedRelease, raw_items: Sequence[msgspec.Raw]
    ) -> tuple[dict[str, Features], pa.Table, list[Rejected]]:
        """`validate_items` on the thread of the store."""
        return await self._call(lambda: validate_items(base, raw_items))

    def apply(self, served: LoadedRelease, changes: Changed, put: pa.Table) -> LoadedRelease:
        """The release to serve next; `put` are the rows of the items put. ApiError delta_full beyond the limit of changed items.

        Must run on the engine's thread.
        """
        before = served.added.changes if served.added else {}
        if len(before.keys() | changes.keys()) > self._max_items:
            raise ApiError(
                "delta_full",
                f"more than {self._max_items:,} items would have changed since the release was built; build a release that "
                f"includes them with `twotower embed --delta`, and serve it",
            )
        return changed(served, changes, put)

    async def close(self) -> None:
        """Wait for running calls, then close the file."""
        self._thread.shutdown()
        self._store.close()

    async def _call(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise ApiError("delta_unavailable", "the change could not be stored; send it again") from error


def with_item_changes(served: LoadedRelease, changes: Changed) -> LoadedRelease:
    """A release with changes that were validated for another release. Items that its columns cannot hold are left out."""
    put = [(item_id, features) for item_id, features in changes.items() if features is not None]
    rows, reasons = rows_of(served.base, put)
    for place, reason in reasons.items():
        _log.warning("changed item %r is not served by %s, whose columns cannot hold it: %s", put[place][0], served.id, reason)
    unusable = {put[place][0] for place in reasons}
    usable = {item_id: features for item_id, features in changes.items() if item_id not in unusable}
    return changed(served, usable, rows) if usable else served


def validate_items(base: LoadedRelease, raw_items: Sequence[msgspec.Raw]) -> tuple[dict[str, Features], pa.Table, list[Rejected]]:
    """The valid items by id, their rows of the release's table in the same order, and why the others are rejected.

    Of several items with one id, the last one counts.
    """
    reasons: dict[int, str] = {}
    read: dict[int, tuple[str, Features]] = {}
    for index, raw in enumerate(raw_items):
        try:
            read[index] = _read(raw)
        except (ApiError, ValueError) as error:
            reasons[index] = _reason(error)
    indices = list(read)
    rows, unusable = rows_of(base, list(read.values()))
    reasons |= {indices[place]: reason for place, reason in unusable.items()}
    good = [item for index, item in read.items() if index not in reasons]
    last = {item_id: place for place, (item_id, _) in enumerate(good)}
    places = sorted(last.values())
    rejected = [Rejected(index=index, reason=reasons[index]) for index in sorted(reasons)]
    return dict(good[place] for place in places), rows.take(pa.array(places, pa.int64())), rejected


def _read(raw: msgspec.Raw) -> tuple[str, Features]:
    item: dict[str, Any] = decode(raw, _item)
    item_id = item.pop(ID_FIELD, None)
    if not isinstance(item_id, str):
        raise ValueError(f"{ID_FIELD}: every item needs one, as a string")
    check_id(item_id)
    return item_id, item


def _reason(error: Exception) -> str:
    where = f" (field {error.field})" if isinstance(error, ApiError) and error.field else ""
    return f"{error}{where}"


def validate_ids(raw_ids: Sequence[msgspec.Raw]) -> tuple[list[str], list[Rejected]]:
    """The valid ids of items to delete, and why the others are rejected."""
    good: list[str] = []
    rejected: list[Rejected] = []
    for index, raw in enumerate(raw_ids):
        try:
            item_id = decode(raw, _id)
            check_id(item_id)
        except (ApiError, ValueError) as error:
            rejected.append(Rejected(index=index, reason=_reason(error)))
        else:
            good.append(item_id)
    return good, rejected


def rows_of(base: LoadedRelease, items: Sequence[tuple[str, Features]]) -> tuple[pa.Table, dict[int, str]]:
    """Rows of the items that the nightly job would accept, and by place the reasons why it would reject the others."""
    table, unusable = item_table([{**features, ID_FIELD: item_id} for item_id, features in items], base.items.schema)
    reasons = {place: str(error) for place, error in unusable.items()}
    places = [place for place in range(len(items)) if place not in reasons]
    sound_A = np.ones(len(table), bool)
    for column, fault, faulty_A in faulty_features(table, base.towers.schema.items, base.towers.config.model.item_spec):
        reasons |= {places[row]: f"{column!r} {fault}" for row in np.flatnonzero(faulty_A & sound_A)}
        sound_A &= ~faulty_A
    return table.filter(pa.array(sound_A)), reasons


def changed(served: LoadedRelease, changes: Changed, put: pa.Table) -> LoadedRelease:
    """The release with further changes; `put` are the rows of the items put."""
    # The base itself no longer answers requests. Its copy here has no cached user states, so that the old states can be freed.
    base, before = (served.added.base, served.added.changes) if served.added else (replace(served), {})
    if served.added is None:
        popularity_of_new_items_P, bought = popularity_of_new_items(base), bought_items(base)
    else:
        popularity_of_new_items_P, bought = served.added.popularity_of_new_items_P, served.added.bought
    pending = {item_id: before[item_id] for item_id in before if item_id not in changes} | dict(changes)
    earlier = served.items.slice(len(base.items))
    stays_A = np.array([item_id not in changes for item_id in served.item_ids[len(base.items) :]], bool)
    table = pa.concat_tables([earlier.filter(pa.array(stays_A, pa.bool_())), put]).combine_chunks()
    vectors_AV = vectors_of(base, put, popularity_of_new_items_P, bought)
    if served.added is not None:
        vectors_AV = np.concatenate([served.added.vectors_AV.numpy()[stays_A], vectors_AV])
    assert isinstance(base.filters, Filters), "the base has no changes"
    width = base.towers.config.model.width
    item_ids: list[str] = table.column(ID_FIELD).to_pylist()
    scan = Scan(Float32Rows(vectors_AV))
    return replace(
        base,
        norms_N=np.concatenate([base.norms_N, np.maximum(np.linalg.norm(vectors_AV[:, :width], axis=1), 1e-12)]),
        items=pa.concat_tables([base.items, table]),
        item_ids=base.item_ids + item_ids,
        rows=ItemRows(base.rows, {item_id: len(base) + place for place, item_id in enumerate(item_ids)}, pending.keys()),
        filters=JoinedFilters(base.filters, Filters(table)),
        added=Added(
            base=base,
            changes=pending,
            vectors_AV=torch.from_numpy(vectors_AV),
            index=Index("flat", vectors_AV, scan, scan),
            hidden=np.array([base.rows[item_id] for item_id in pending if item_id in base.rows], np.int64),
            popularity_of_new_items_P=popularity_of_new_items_P,
            bought=bought,
        ),
    )


def vectors_of(base: LoadedRelease, put: pa.Table, popularity_of_new_items_P: Floats, bought: BoughtItems) -> Floats:
    """Vectors [A, V] of items put. Items that the release does not know get the popularity that is expected of new items."""
    model, config = base.towers.config.model, base.towers.config
    vectors_AV = np.empty((len(put), base.info.vector_width), np.float32)
    if len(put):
        embed = embed_content if base.info.by_content else embed_table  # as the release's own items
        vectors_AV[:, : model.width] = embed(put, base.towers.embedder, model.item_spec, model.table_rows)
        rows_A = np.array([base.rows.get(item_id, -1) for item_id in put.column(ID_FIELD).to_pylist()])
        new_A = rows_A < 0
        vectors_AV[~new_A, model.width :] = base.vectors_NV[torch.from_numpy(rows_A[~new_A]), model.width :].numpy()
        vectors_AV[new_A, model.width :] = popularity_of_new_items_P
        if new_A.any():
            neighbours_AK = bought.log_popularity_B[bought.nearest(vectors_AV[new_A, : model.width])]
            half_life_days = config.popularity_half_lives_days[0]
            vectors_AV[new_A, model.width] = with_expected(vectors_AV[new_A, model.width], neighbours_AK, 0.0, half_life_days)
    return vectors_AV


def bought_items(base: LoadedRelease) -> BoughtItems:
    """The items of a release with which new ones are compared, as the nightly job compares them."""
    width, vectors_NV = base.towers.config.model.width, base.vectors_NV.numpy()
    return BoughtItems.of(vectors_NV[:, :width], vectors_NV[:, width], np.arange(len(vectors_NV)))


def popularity_of_new_items(base: LoadedRelease) -> Floats:
    """Popularity and signals [P] of an item without events, as the nightly job counts them: before anything is expected of it."""
    tail_NP = base.vectors_NV[:, base.towers.config.model.width :].numpy()
    result_P = np.zeros(tail_NP.shape[1], np.float32)
    if len(result_P):
        lowest = tail_NP[:, 0].argmin()
        # A nightly job that counted popularity anew gives such an item a trend too; popularity from the bundle has no trend.
        counted = len(base.towers.config.popularity_half_lives_days) if base.info.popularity_as_of_ms is not None else 1
        result_P[:counted] = tail_NP[lowest, :counted]
    return result_P
