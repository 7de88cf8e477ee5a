"""One release in the memory of the service, and the search over its items.

N: items, D: item vector width, V: D + popularity dimensions, K: results, M: past items, A: items added since it was built,
P: popularity and signal dimensions
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from service.histories.history import StoredEvent
from service.model.cpu_reader import CpuReader
from service.model.device_model import DeviceModel
from service.model.device_reader import DeviceReader
from service.model.item_vectors import ItemVectors
from service.model.reader import Reader
from service.release.filters import Filters, JoinedFilters, Mask
from service.release.served_map import ServedMap
from service.states.cache import UserCache, UserStates
from twotower.artefacts.bundle import Towers
from twotower.artefacts.item_changes import Changed
from twotower.artefacts.release import (
    ReleaseInfo,
)
from twotower.data.features import Floats, Ints
from twotower.data.new_items import BoughtItems
from twotower.index.search import Index

_NUMBERS = count()


@dataclass(frozen=True, slots=True)
class Added:
    """Item changes since the release was built; `service.release.changes` makes them. Items put have rows after the release's."""

    base: "LoadedRelease"  # the release without changes
    changes: Changed
    vectors_AV: Tensor
    index: Index  # of these vectors
    hidden: Ints  # rows of the release whose items were replaced or deleted
    popularity_of_new_items_P: Floats  # popularity and signals of an item without events
    bought: BoughtItems  # of the release, with which new items are compared


@dataclass(frozen=True, slots=True, weakref_slot=True)
class LoadedRelease:
    """One release with its item changes. It never changes itself, and a request uses the same one from beginning to end.

    `vectors_NV` and `index` cover only the rows that the release was built with. All other fields also cover the added rows.
    """

    id: str
    info: ReleaseInfo
    towers: Towers
    vectors_NV: Tensor
    norms_N: Floats  # norms of the item vectors, which are the first D columns
    index: Index
    items: pa.Table
    item_ids: list[str]  # by row, hidden rows included
    rows: Mapping[str, int]  # item_id -> item_row
    filters: Filters | JoinedFilters
    added: Added | None = None
    device_model: DeviceModel | None = None  # None: the model runs on the CPU
    dtype: torch.dtype = torch.float32  # of the products over many events, on the CPU
    item_map: ServedMap | None = None  # of the items that the release was built with
    reader: Reader = field(init=False)
    users: UserStates = field(init=False)  # cached user states; the next release of the same bundle takes them over
    number: int = field(init=False)  # a new one for every object
    item_vectors: ItemVectors = field(init=False)

    def __post_init__(self) -> None:
        added_AV = None if self.added is None else self.added.vectors_AV
        vectors, model = ItemVectors(self.vectors_NV, added_AV), self.device_model
        reader: Reader = (
            CpuReader(self.towers, vectors, self.rows, self.dtype)
            if model is None
            else DeviceReader(model, self.towers, self.rows, added_AV)
        )
        object.__setattr__(self, "item_vectors", vectors)
        object.__setattr__(self, "reader", reader)
        object.__setattr__(self, "users", UserStates(self.state_space))
        object.__setattr__(self, "number", next(_NUMBERS))

    def __len__(self) -> int:
        return len(self.item_ids)

    def reads(self, event: StoredEvent) -> bool:
        """Whether the model reads an event: of an item that the catalogue knows, or a search if it was trained on searches."""
        return event.item_id in self.rows or (event.query is not None and self.towers.config.model.query_field is not None)

    @property
    def base(self) -> "LoadedRelease":
        """The release without item changes."""
        return self if self.added is None else self.added.base

    @property
    def state_space(self) -> str:
        """What user states of two releases must have in common for one to be used by the other: the towers and the dtype."""
        return self.info.bundle_id if self.dtype == torch.float32 else f"{self.info.bundle_id} {self.dtype}"

    def can_take_over(self, before: "LoadedRelease") -> bool:
        """Whether user states of the other release can be used here: both have the same towers, and memories of one kind."""
        pools = [release.device_model and release.device_model.pool for release in (self, before)]
        return self.state_space == before.state_space and pools[0] is pools[1]

    def vectors(self, rows: Ints) -> Tensor:
        """Vectors [M, V] of some rows, added ones included."""
        return self.item_vectors.take(rows)

    def products(self, vector_D: Floats) -> Floats:
        """Inner products [N] of an item vector with the item vectors of all rows."""
        parts = [self.vectors_NV] if self.added is None else [self.vectors_NV, self.added.vectors_AV]
        products = [part.numpy()[:, : len(vector_D)] @ vector_D for part in parts]
        return products[0] if len(products) == 1 else np.concatenate(products)

    def listed(self) -> Mask:
        """A new mask [N] of the rows that are not hidden; only these may be returned."""
        mask = np.ones(len(self), bool)
        if self.added is not None:
            mask[self.added.hidden] = False
        return mask

    def search_many(self, queries_QV: Floats, k: int, without: Sequence[Ints]) -> list[tuple[Ints, Floats]]:
        """`search` for several queries at once; `without` has the rows that each query leaves out."""
        if self.added is not None:
            return [self.search(query_V[None], k, self._without(rows)) for query_V, rows in zip(queries_QV, without, strict=True)]
        rows_QK, scores_QK = self.index.search(queries_QV, k, without=without)
        return [_found(rows_QK[q : q + 1], scores_QK[q : q + 1]) for q in range(len(queries_QV))]

    def _without(self, rows: Ints) -> Mask:
        mask = self.listed()
        mask[rows] = False
        return mask

    def search(self, query_1V: Floats, k: int, allowed_N: Mask | None) -> tuple[Ints, Floats]:
        """Rows and scores of the best k allowed rows for one query, best first; equal scores by the lower row."""
        if self.added is None:
            return _found(*self.index.search(query_1V, k, allowed_N))
        num_built, allowed_N = len(self.vectors_NV), self.listed() if allowed_N is None else allowed_N
        rows, scores = _found(*self.index.search(query_1V, k, allowed_N[:num_built]))
        if not len(self.added.vectors_AV):
            return rows, scores
        late_rows, late_scores = _found(*self.added.index.search(query_1V, k, allowed_N[num_built:]))
        return merged((rows, late_rows + num_built), (scores, late_scores), k)


def hand_over_users(cache: UserCache, heir: LoadedRelease, before: LoadedRelease) -> None:
    """Let a release take over the user states of another one, if it can. Must run on the engine's thread."""
    if heir.can_take_over(before):
        cache.hand_over(heir.users, before.users)


def similar(release: LoadedRelease, vector_D: Floats, k: int, allowed_N: Mask) -> tuple[Ints, Floats]:
    """Rows and cosines of the k allowed items with the highest cosine to an item vector; equal cosines by the lower row."""
    norm = max(float(np.linalg.norm(vector_D)), 1e-12)
    cosines_N = release.products(vector_D) / (release.norms_N * norm)
    rows = np.flatnonzero(allowed_N)
    order = rows[np.lexsort((rows, -cosines_N[rows]))[:k]]
    return order, cosines_N[order]


def _found(rows_1K: Ints, scores_1K: Floats) -> tuple[Ints, Floats]:
    """Rows and scores for one query, without the row -1 that fills up a short answer."""
    found = rows_1K[0] >= 0
    return rows_1K[0, found], scores_1K[0, found]


def merged(rows: tuple[Ints, Ints], scores: tuple[Floats, Floats], k: int) -> tuple[Ints, Floats]:
    """The best k of two answers, best first; equal scores by the lower row."""
    all_rows, all_scores = np.concatenate(rows), np.concatenate(scores)
    order = np.lexsort((all_rows, -all_scores))[:k]
    return all_rows[order], all_scores[order]
