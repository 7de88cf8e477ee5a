"""One release as the service holds it, and the search over it.

N: items, D: item vector width, V: D + popularity dimensions, K: results, M: past items, A: items added since it was built,
P: popularity and signal dimensions
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from service.model.event_contexts import Contexts
from service.model.incremental import PastParts, Reader
from service.model.user_states import UserStates
from service.release.filters import Filters, JoinedFilters, Mask
from twotower.artefacts.bundle import Towers
from twotower.artefacts.item_changes import Changed
from twotower.artefacts.release import (
    ReleaseInfo,
)
from twotower.data.features import Floats, Ints
from twotower.index.search import Index

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Added:
    """What changed since the release was built; `service.release.changes` makes it. Items put have the rows after its own."""

    base: "LoadedRelease"  # the release without changes
    changes: Changed
    vectors_AV: Tensor
    index: Index  # of these
    hidden: Ints  # rows of the release that were replaced or deleted
    popularity_of_new_items_P: Floats  # popularity and signals of an item that no event names


@dataclass(frozen=True, slots=True)
class LoadedRelease:
    """Everything of one release, and what was added. A request uses one of these from its first line to its last.

    Vectors and index are of the release's own rows; all else is of the rows added too.
    """

    id: str
    info: ReleaseInfo
    towers: Towers
    vectors_NV: Tensor
    norms_N: Floats  # of the first D columns
    index: Index
    items: pa.Table
    item_ids: list[str]  # of hidden rows too
    rows: Mapping[str, int]  # item_id -> item_row
    filters: Filters | JoinedFilters
    added: Added | None = None
    reader: Reader = field(init=False)
    users: UserStates = field(init=False)  # what the model keeps of them: forgotten with the release, and with every change of it
    no_past_parts: PastParts = field(init=False)
    contexts: Contexts = field(init=False)

    def __post_init__(self) -> None:
        reader = Reader(self.towers.contextualizer, self.towers.config.model)
        object.__setattr__(self, "reader", reader)
        object.__setattr__(self, "users", UserStates())
        object.__setattr__(self, "contexts", Contexts(self.towers, reader))
        object.__setattr__(self, "no_past_parts", reader.no_past_parts())

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def base(self) -> "LoadedRelease":
        """The same without what was added."""
        return self if self.added is None else self.added.base

    def vectors(self, rows: Ints) -> Tensor:
        """Vectors [M, V] of some rows."""
        if self.added is None:
            return torch.from_numpy(self.vectors_NV.numpy().take(rows, 0))  # for few rows much faster than torch
        num_built = len(self.vectors_NV)
        vectors_MV = self.vectors_NV[torch.from_numpy(np.minimum(rows, num_built - 1))]
        late = rows >= num_built
        vectors_MV[torch.from_numpy(late)] = self.added.vectors_AV[torch.from_numpy(rows[late] - num_built)]
        return vectors_MV

    def products(self, vector_D: Floats) -> Floats:
        """Inner products [N] of an item vector with that of every row."""
        parts = [self.vectors_NV] if self.added is None else [self.vectors_NV, self.added.vectors_AV]
        products = [part.numpy()[:, : len(vector_D)] @ vector_D for part in parts]
        return products[0] if len(products) == 1 else np.concatenate(products)

    def listed(self) -> Mask:
        """Which rows may be returned at all, as a fresh mask [N]."""
        mask = np.ones(len(self), bool)
        if self.added is not None:
            mask[self.added.hidden] = False
        return mask

    def search_many(self, queries_QV: Floats, k: int, without: Sequence[Ints]) -> list[tuple[Ints, Floats]]:
        """As `search`, of several queries; each has rows of its own that are left out."""
        if self.added is not None:
            return [self.search(query_V[None], k, self._but(rows)) for query_V, rows in zip(queries_QV, without, strict=True)]
        rows_QK, scores_QK = self.index.search(queries_QV, k, without=without)
        return [_found(rows_QK[q : q + 1], scores_QK[q : q + 1]) for q in range(len(queries_QV))]

    def _but(self, rows: Ints) -> Mask:
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


def similar(release: LoadedRelease, vector_D: Floats, k: int, allowed_N: Mask) -> tuple[Ints, Floats]:
    """Rows and cosines of the k allowed items most like an item vector; equal cosines by the lower row."""
    norm = max(float(np.linalg.norm(vector_D)), 1e-12)
    cosines_N = release.products(vector_D) / (release.norms_N * norm)
    rows = np.flatnonzero(allowed_N)
    order = rows[np.lexsort((rows, -cosines_N[rows]))[:k]]
    return order, cosines_N[order]


def _found(rows_1K: Ints, scores_1K: Floats) -> tuple[Ints, Floats]:
    """The answer to one query without what fills it up."""
    found = rows_1K[0] >= 0
    return rows_1K[0, found], scores_1K[0, found]


def merged(rows: tuple[Ints, Ints], scores: tuple[Floats, Floats], k: int) -> tuple[Ints, Floats]:
    """The best k of two answers."""
    all_rows, all_scores = np.concatenate(rows), np.concatenate(scores)
    order = np.lexsort((all_rows, -all_scores))[:k]
    return all_rows[order], all_scores[order]
