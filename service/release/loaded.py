"""One release as the service holds it, and the search over it.

N: items, D: item vector width, V: D + popularity dimensions, K: results, M: own items, A: items added since it was built,
P: popularity and signal dimensions
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from service.kernels.finder import on_device
from service.model.event_contexts import Contexts
from service.model.incremental import OwnParts, Reader
from service.model.user_states import UserStates
from service.release.filters import Filters, JoinedFilters, Mask
from twotower.artefacts.bundle import Towers, load_towers, read_table
from twotower.artefacts.cache import fetch
from twotower.artefacts.item_changes import Changed
from twotower.artefacts.manifest import UNREADABLE, Manifest
from twotower.artefacts.release import (
    GOLDEN,
    ITEMS,
    VECTORS,
    Address,
    ReleaseInfo,
    open_store,
    read_pointer,
    verify_release,
)
from twotower.artefacts.signature import Verifier
from twotower.data.features import Floats, Ints
from twotower.errors import ReleaseMismatch
from twotower.index.kinds import EXACT, open_index
from twotower.index.search import Index
from twotower.model.catalogue import ID_FIELD
from twotower.model.golden import GoldenQuery, golden_request
from twotower.model.scoring import Queries, answer

CPU = torch.device("cpu")
GOLDEN_TOLERANCE = 1e-3  # another machine's kernels round differently; a wrong vector is off by far more
_IDS_AT_ONCE, _ROWS_AT_ONCE = 4096, 65_536
APPROXIMATE_OVERLAP = 0.5  # of a golden answer, that an approximate index must find; one over other vectors finds nearly nothing


@dataclass(frozen=True, slots=True)
class Added:
    """What changed since the release was built; `service.release.changes` makes it. Items put have the rows after its own."""

    base: "LoadedRelease"  # the release without changes
    changes: Changed
    vectors_AV: Tensor
    index: Index  # of these
    hidden: Ints  # rows of the release that were replaced or deleted
    unheard_P: Floats  # popularity and signals of an item that no event names


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
    no_own_parts: OwnParts = field(init=False)
    contexts: Contexts = field(init=False)

    def __post_init__(self) -> None:
        reader = Reader(self.towers.contextualizer, self.towers.config.model)
        object.__setattr__(self, "reader", reader)
        object.__setattr__(self, "users", UserStates())
        object.__setattr__(self, "contexts", Contexts(self.towers, reader))
        object.__setattr__(self, "no_own_parts", reader.no_own_parts())

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
        own = len(self.vectors_NV)
        vectors_MV = self.vectors_NV[torch.from_numpy(np.minimum(rows, own - 1))]
        late = rows >= own
        vectors_MV[torch.from_numpy(late)] = self.added.vectors_AV[torch.from_numpy(rows[late] - own)]
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
        own, allowed_N = len(self.vectors_NV), self.listed() if allowed_N is None else allowed_N
        rows, scores = _found(*self.index.search(query_1V, k, allowed_N[:own]))
        if not len(self.added.vectors_AV):
            return rows, scores
        late_rows, late_scores = _found(*self.added.index.search(query_1V, k, allowed_N[own:]))
        return merged((rows, late_rows + own), (scores, late_scores), k)


def load_release(store: Address, signed_by: Verifier | None = None, device: torch.device = CPU) -> LoadedRelease:
    """The release the store points at, verified, loaded and proven by its golden queries.

    StoreError without one; IntegrityError, FormatError or ReleaseMismatch when it must not be used.
    """
    return open_release(fetch(open_store(store), read_pointer(store).release), signed_by, device)


def open_release(path: Path, signed_by: Verifier | None = None, device: torch.device = CPU) -> LoadedRelease:
    """The release in a directory; see `load_release`."""
    # FAISS reads damaged files without noticing, and its parser trusts them: hashes come first.
    return read_release(path, *verify_release(path, signed_by), device)


def read_release(path: Path, manifest: Manifest, info: ReleaseInfo, device: torch.device = CPU) -> LoadedRelease:
    """The release in a directory that was just verified, loaded and proven by its golden queries; ReleaseMismatch else.

    An exact index is searched on `device`.

    Other threads may be answering meanwhile: nothing here keeps Python to itself for long.
    """
    towers = load_towers(path)
    vectors_NV = np.load(path / VECTORS, mmap_mode="c", allow_pickle=False)
    items = read_table(path / ITEMS)
    check_agreement(path, info, vectors_NV, items)
    index = on_device(open_index(path, np.asarray(vectors_NV), towers.config.model.width, info.index), device)
    item_ids, rows = read_ids(items)
    release = LoadedRelease(
        id=manifest.id,
        info=info,
        towers=towers,
        vectors_NV=torch.from_numpy(vectors_NV),
        norms_N=norms_of(vectors_NV, towers.config.model.width),
        index=index,
        items=items,
        item_ids=item_ids,
        rows=rows,
        filters=Filters(items),
    )
    if len(release.rows) != len(item_ids):
        raise ReleaseMismatch(f"{path}: an item id occurs twice. Publish it again with `twotower embed`.")
    replay_golden_queries(release, read_golden(path))
    return release


def read_ids(items: pa.Table) -> tuple[list[str], dict[str, int]]:
    """Item ids in the order of their rows, and the row of each; in pieces, between which other threads have their turn."""
    column, item_ids, rows = items.column(ID_FIELD), list[str](), dict[str, int]()
    for start in range(0, len(items), _IDS_AT_ONCE):
        part = column.slice(start, _IDS_AT_ONCE).to_pylist()
        item_ids += part
        rows.update(zip(part, range(start, start + len(part)), strict=True))
        time.sleep(0)  # unasked, Python would let them wait for 5 ms each time
    return item_ids, rows


def norms_of(vectors_NV: Floats, width: int) -> Floats:
    """Norms [N] of the first `width` columns, never 0; in pieces, for numpy copies what it squares."""
    norms_N = np.empty(len(vectors_NV), np.float32)
    for start in range(0, len(vectors_NV), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        norms_N[part] = np.linalg.norm(vectors_NV[part, :width], axis=1)
    return np.maximum(norms_N, 1e-12)


def check_agreement(path: Path, info: ReleaseInfo, vectors_NV: npt.NDArray[Any], items: pa.Table) -> None:
    """ReleaseMismatch unless vectors and item table hold the same items in the same space."""
    shape = (info.num_items, info.vector_width)
    says = f"release.json says {info.num_items} of width {info.vector_width}"
    if vectors_NV.shape != shape or vectors_NV.dtype != np.float32:
        raise _mismatch(path, f"vectors are {vectors_NV.dtype} {vectors_NV.shape}, {says}")
    if len(items) != info.num_items:
        raise _mismatch(path, f"the item table has {len(items)} rows, {says}")


def read_golden(path: Path) -> list[GoldenQuery]:
    """golden.json of a release that was verified; ReleaseMismatch when it holds something else."""
    try:
        return msgspec.json.decode((path / GOLDEN).read_bytes(), type=list[GoldenQuery])
    except UNREADABLE as error:
        raise _mismatch(path, f"{GOLDEN} cannot be read: {error}") from error


def _mismatch(path: Path, what: str) -> ReleaseMismatch:
    return ReleaseMismatch(f"{path}: {what}. Publish it again with `twotower embed`.")


def replay_golden_queries(release: LoadedRelease, golden: Sequence[GoldenQuery]) -> None:
    """ReleaseMismatch unless every golden query gets the answer it got when the release was made.

    Two items may swap places when their scores are closer than rounding, and an approximate index may miss some.
    """
    for query in golden:
        queries = _golden_request(release, query)
        rows, scores = best(release, queries, len(query.top_item_ids), None)
        dense_N = queries.dense_scores(release.vectors_NV)[0].numpy()
        promised = np.array(query.top_scores, np.float32)
        again = dense_N[[release.rows[i] for i in query.top_item_ids]]
        same = [release.item_ids[r] for r in rows] == query.top_item_ids
        near = len(scores) == len(promised) and is_near(again, promised)
        if release.info.index.kind in EXACT:
            found = is_near(scores, promised) and (same or has_near_ties(promised, dense_N))
        else:
            wanted = {release.rows[i] for i in query.top_item_ids}
            found = len(wanted.intersection(rows.tolist())) >= APPROXIMATE_OVERLAP * len(wanted)
        if not near or not found:
            raise ReleaseMismatch(
                f"{release.id} no longer gives its golden answer to a history of {len(query.item_ids)} events. "
                f"Publish it again with `twotower embed`, with the program that serves it."
            )


def is_near(scores_K: Floats, promised_K: Floats) -> bool:
    """Whether scores are what was promised, but for another machine's rounding."""
    return bool(np.abs(scores_K - promised_K).max(initial=0) <= GOLDEN_TOLERANCE)


def has_near_ties(scores_K: Floats, dense_N: Floats) -> bool:
    """Whether some score of the top K is so close to another of the catalogue that rounding could swap them."""
    ordered = np.sort(dense_N)[::-1][: len(scores_K) + 1]
    return bool((ordered[:-1] - ordered[1:] <= 2 * GOLDEN_TOLERANCE).any())


def _golden_request(release: LoadedRelease, query: GoldenQuery) -> Queries:
    config = release.towers.config.model
    if unknown := [i for i in (*query.item_ids, *query.top_item_ids) if i not in release.rows]:
        raise ReleaseMismatch(f"{release.id}: its golden queries know {unknown[0]!r}, its item table does not. Publish it again.")
    rows = np.array([release.rows[i] for i in query.item_ids], np.int64)
    times = np.array(query.times_ms, np.int64)
    request = golden_request(config, rows, times, query.now_ms)
    return answer(release.towers.contextualizer, config, release.vectors_NV, [request])


def best(release: LoadedRelease, queries: Queries, k: int, allowed_N: Mask | None) -> tuple[Ints, Floats]:
    """Rows and scores of the top k of one query by the full score, best first; equal scores by the lower row.

    Own items get a repeat score that no index knows: they are scored in full, and the index is searched among the others.
    The answer is shorter than k only when fewer items are allowed.
    """
    own_rows = queries.own_rows_M.numpy()
    by_place = replace(queries, own_rows_M=torch.arange(len(own_rows)))
    own_scores = by_place.own_scores(release.vectors(own_rows)).numpy()
    others_N = allowed_N
    if len(own_rows):
        others_N = release.listed() if allowed_N is None else allowed_N.copy()
        others_N[own_rows] = False
    rows, scores = release.search(queries.vectors_QV.numpy(), k, others_N)
    mine = slice(None) if allowed_N is None else allowed_N[own_rows]
    return merged((rows, own_rows[mine]), (scores, own_scores[mine]), k)


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
