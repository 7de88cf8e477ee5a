"""The releases that rankings for the client come from: the served one, those of uploaded catalogues, and several joined.

An item of an uploaded catalogue has the id `CATALOGUE/ID` here, in histories too: equal ids of two catalogues are two items.

N: items of all joined catalogues, V: vector width
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from service.api.errors import ApiError
from service.api.schemas import AboutUser
from service.release.filters import Filters
from service.release.loaded import LoadedRelease
from service.release.loading import open_release
from service.rollout.served import Chosen, ServedReleases
from service.uploads.columns import roles_of, served_data, view_of_served, view_of_upload
from service.uploads.folder import CATALOGUE_ID, CatalogueFolder, State
from twotower.artefacts.release import release_path
from twotower.data.json_values import json_rows
from twotower.errors import ArtefactError, IntegrityError, StoreError
from twotower.index.scan import Float32Rows, Scan
from twotower.index.search import Index
from twotower.model.catalogue import ID_FIELD

CATALOGUE = "catalog_id"  # the column of several catalogues together that says of which one an item is
JOINED_KEPT = 4  # combinations of catalogues that are kept in memory
_SPLIT = "/"


@dataclass(frozen=True, slots=True)
class Uploaded:
    """An uploaded catalogue in memory: its release, and its rows in the order of the release."""

    release: LoadedRelease
    rows: pa.Table


@dataclass(frozen=True, slots=True)
class Target:
    """What a request ranks: a release, the catalogues in it, and the names that its filters may use beside its columns."""

    chosen: Chosen
    catalog_ids: tuple[str, ...]  # the first is the one of items and events that name none
    features_of: dict[str, tuple[str, ...]]
    parts: dict[str, "Uploaded | LoadedRelease"]  # by catalogue

    def data(self, item_ids: Sequence[str], served_id: str) -> list[dict[str, Any]]:
        """The rows of items of any of the catalogues, by our ids."""
        made: dict[str, dict[str, Any]] = {}
        by_catalogue: dict[str, list[str]] = {}
        for item_id in item_ids:
            by_catalogue.setdefault(named(item_id, served_id)[0], []).append(item_id)
        for catalog_id, ids in by_catalogue.items():
            part = self.parts[catalog_id]
            found = served_data(part, ids) if isinstance(part, LoadedRelease) else uploaded_data(part, ids)
            made |= zip(ids, found, strict=True)
        return [made[item_id] for item_id in item_ids]


def own_id(catalog_id: str, item: str, served_id: str) -> str:
    """Our id of an item of a catalogue."""
    return item if catalog_id == served_id else f"{catalog_id}{_SPLIT}{item}"


def named(item_id: str, served_id: str) -> tuple[str, str]:
    """The catalogue of an item, and the id that it has there."""
    catalog_id, mark, item = item_id.partition(_SPLIT)
    return (catalog_id, item) if mark and CATALOGUE_ID.fullmatch(catalog_id) else (served_id, item_id)


class CatalogueReleases:
    """Finds the releases of requests, and keeps those of uploaded catalogues in memory. Used on the event loop."""

    def __init__(self, served: ServedReleases, served_id: str, folder: CatalogueFolder | None) -> None:
        self._served, self._served_id, self._folder = served, served_id, folder
        self._uploaded: dict[str, tuple[str, Uploaded]] = {}  # by catalogue: its release, loaded
        self._joined: OrderedDict[tuple[tuple[str, int], ...], LoadedRelease] = OrderedDict()
        self._loading = asyncio.Lock()

    async def target(self, catalog_ids: Sequence[str], request: AboutUser) -> Target:
        """What a request about these catalogues ranks.

        ApiError not_found for an unknown catalogue, catalog_pending for one that has no release yet.
        """
        wanted = tuple(dict.fromkeys(catalog_ids))
        chosen = self._served.choose(request)
        parts: dict[str, Uploaded | LoadedRelease] = {}
        for catalog_id in wanted:
            parts[catalog_id] = chosen.release if catalog_id == self._served_id else await self._load(catalog_id)
        if len(wanted) > 1:
            release = await self._join(parts)
            return Target(Chosen(release, chosen.variant), wanted, {}, parts)
        (part,) = parts.values()
        if isinstance(part, LoadedRelease):
            return Target(chosen, wanted, roles_of(part.towers.schema.items).by_column, parts)
        return Target(Chosen(part.release, chosen.variant), wanted, {}, parts)

    def forget(self, catalog_id: str) -> None:
        """Drop a deleted catalogue from memory."""
        self._uploaded.pop(catalog_id, None)
        self._drop_joined(catalog_id)

    async def _load(self, catalog_id: str) -> Uploaded:
        folder, state = await self._find(catalog_id)
        if known := self._known(state):
            return known
        async with self._loading:
            return await self._open(folder, catalog_id)

    async def _find(self, catalog_id: str) -> tuple[CatalogueFolder, State]:
        """The state of a catalogue that has a release; ApiError for any other."""
        state = await asyncio.to_thread(self._folder.find, catalog_id) if self._folder else None
        if state is None or self._folder is None:
            self.forget(catalog_id)
            raise ApiError("not_found", f"there is no catalogue {catalog_id!r}; this server's own is {self._served_id!r}")
        if state.release is None:
            if state.pending:
                raise ApiError("catalog_pending", f"the catalogue {catalog_id!r} is still being embedded; ask for its job")
            raise ApiError("not_found", f"the catalogue {catalog_id!r} could not be embedded: {state.error}")
        return self._folder, state

    def _known(self, state: State) -> Uploaded | None:
        release, uploaded = self._uploaded.get(state.catalog_id, (None, None))
        return uploaded if release == state.release else None

    async def _open(self, folder: CatalogueFolder, catalog_id: str) -> Uploaded:
        """Bring a catalogue into memory, unless another request did so meanwhile. One at a time."""
        _, state = await self._find(catalog_id)
        if known := self._known(state):
            return known
        try:
            uploaded = await asyncio.to_thread(open_uploaded, folder, state)
        except (ArtefactError, StoreError, FileNotFoundError) as error:
            if (await self._find(catalog_id))[1] != state:  # a job has put other files in place of these
                return await self._open(folder, catalog_id)
            raise ApiError("not_found", f"the catalogue {catalog_id!r} cannot be read; upload it again") from error
        assert state.release, "it was looked for"
        self._drop_joined(catalog_id)
        self._uploaded[catalog_id] = (state.release, uploaded)
        return uploaded

    async def _join(self, parts: dict[str, Uploaded | LoadedRelease]) -> LoadedRelease:
        releases = [part if isinstance(part, LoadedRelease) else part.release for part in parts.values()]
        spaces = {(release.info.vector_space_id, release.info.vector_width) for release in releases}
        if len(spaces) > 1:
            raise ApiError(
                "catalog_pending",
                "these catalogues are embedded by different models: ask again when the older ones were embedded anew",
            )
        key = tuple(zip(parts, (release.number for release in releases), strict=True))
        if key not in self._joined:
            async with self._loading:  # one at a time, since each copies all vectors
                if key not in self._joined:
                    self._joined[key] = await asyncio.to_thread(partial(join, parts))
        self._joined.move_to_end(key)
        joined = self._joined[key]
        while len(self._joined) > JOINED_KEPT:
            self._joined.popitem(last=False)
        return joined

    def _drop_joined(self, catalog_id: str) -> None:
        for key in [key for key in self._joined if catalog_id in dict(key)]:
            del self._joined[key]


def open_uploaded(folder: CatalogueFolder, state: State) -> Uploaded:
    """A catalogue in memory, verified and checked as every release is; ArtefactError, StoreError or OSError when it cannot be."""
    assert state.release, "a catalogue without a release cannot be opened"
    assert state.rows, "a release has rows"
    path = folder.path(state.catalog_id)
    release = open_release(release_path(path / "store", state.release))
    try:
        rows = pq.read_table(path / state.rows)
    except pa.ArrowInvalid as error:
        raise IntegrityError(f"{path / state.rows} cannot be read: {error}") from error
    ids = pc.binary_join_element_wise(state.catalog_id, rows.column("id").combine_chunks(), _SPLIT)
    aligned = rows.take(pc.index_in(release.items.column(ID_FIELD), ids)).combine_chunks()
    view = view_of_upload(release, aligned)
    return Uploaded(replace(release, items=view, filters=Filters(view)), aligned)


def uploaded_data(uploaded: Uploaded, item_ids: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of items as they were uploaded."""
    return json_rows(uploaded.rows.take(pa.array([uploaded.release.rows[item_id] for item_id in item_ids], pa.int64())))


def join(parts: Mapping[str, Uploaded | LoadedRelease]) -> LoadedRelease:
    """One release with the items of all catalogues, in their order. The towers are those of the first."""
    releases = [part if isinstance(part, LoadedRelease) else part.release for part in parts.values()]
    views = [view_of_served(part) if isinstance(part, LoadedRelease) else part.release.items for part in parts.values()]
    rows = [np.flatnonzero(release.listed()) for release in releases]
    vectors_NV = np.concatenate([release.vectors(mine).numpy() for release, mine in zip(releases, rows, strict=True)])
    taken = [_of(name, view.take(pa.array(mine))) for name, view, mine in zip(parts, views, rows, strict=True)]
    items = pa.concat_tables(taken, promote_options="permissive").combine_chunks()
    item_ids: list[str] = items.column(ID_FIELD).to_pylist()
    scan = Scan(Float32Rows(vectors_NV))
    return replace(
        releases[0],
        id="+".join(release.id for release in releases),
        vectors_NV=torch.from_numpy(vectors_NV),
        norms_N=np.concatenate([release.norms_N[mine] for release, mine in zip(releases, rows, strict=True)]),
        index=Index("flat", vectors_NV, scan, scan),
        items=items,
        item_ids=item_ids,
        rows={item_id: row for row, item_id in enumerate(item_ids)},
        filters=Filters(items),
        added=None,
        device_model=None,
    )


def _of(catalog_id: str, items: pa.Table) -> pa.Table:
    """Items with the catalogue that they are of."""
    told = pa.array([catalog_id] * len(items), pa.string()).dictionary_encode()
    return pa.table({name: items.column(name) for name in items.column_names} | {CATALOGUE: told})
