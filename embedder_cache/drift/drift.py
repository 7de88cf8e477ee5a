"""The drift report: what changed from one release to the next, and whether to train again.

N: items of a release, C: items of both releases, D: embedding width, V: vector width, U: items of either
"""

from datetime import UTC, datetime
from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from embedder_cache.catalogue.demand import divergence, over_either
from embedder_cache.catalogue.opened_release import OpenedRelease
from embedder_cache.drift.answers import AnswerDrift, compare_answers
from embedder_cache.drift.retrain import Advice, Rules, SinceTraining, advise, since_training
from twotower.artefacts.bundle import Bundle
from twotower.data.features import Floats, Ints
from twotower.metrics.rank_correlation import spearman

CHUNK_ITEMS = 65_536
NUM_SHOWN = 10  # items named in each list of the report
NUM_HISTORIES = 32
COSINES = (0.9999, 0.999, 0.99, 0.9, 0.5)  # bounds of classes: cosine of an item's vector to its vector in the older release


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What identifies one of the two releases."""

    release: str
    bundle_id: str
    vector_space_id: str
    num_items: int
    popularity_as_of: datetime | None  # None when it is as of the bundle's training


class Items(msgspec.Struct, frozen=True, kw_only=True):
    """How many items both releases have, were added and were removed."""

    common: int
    added: int
    removed: int


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """An item whose vector changed. `label` is its title, or else its first text or category."""

    item_id: str
    label: str | None
    cosine: float


class VectorDrift(msgspec.Struct, frozen=True, kw_only=True):
    """Changes in the embeddings of common items, without popularity. `cosine` has percentiles over the changed ones."""

    bit_equal: int
    changed_share: float
    cosine: dict[str, float]
    items_by_cosine: dict[str, int]
    most_moved: list[Moved]


class Mover(msgspec.Struct, frozen=True, kw_only=True):
    """An item and its share of demand before and after."""

    item_id: str
    label: str | None
    before: float
    after: float


class PopularityDrift(msgspec.Struct, frozen=True, kw_only=True):
    """Changes in demand by item. `spearman` is over common items, None when one side is constant; `divergence` is 0 to 1 bit."""

    spearman: float | None
    divergence: float
    risers: list[Mover]
    fallers: list[Mover]


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """The whole report. `vectors` is None between different vector spaces, `answers` is None without common items."""

    older: Side
    newer: Side
    items: Items
    same_vector_space: bool
    vectors: VectorDrift | None
    popularity: PopularityDrift
    answers: AnswerDrift | None
    since_training: SinceTraining | None
    advice: Advice


def compare(
    older: OpenedRelease,
    newer: OpenedRelease,
    bundle: Bundle | None = None,
    rules: Rules = Rules(),  # noqa: B008  # frozen
    num_histories: int = NUM_HISTORIES,
) -> Drift:
    """The drift from one release to another, both undamaged. Memory: the ids and some numbers an item.

    `bundle` must be the newer release's (else ReleaseMismatch) and adds what happened since its training. Both releases answer
    the older one's golden queries and `num_histories` made-up histories; without the latter the report takes half the time.
    """
    found = pc.index_in(older.item_ids, newer.item_ids)
    rows_N: Ints = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    num_common = int((rows_N >= 0).sum())
    same_space = older.info.vector_space_id == newer.info.vector_space_id
    since = None if bundle is None else since_training(bundle, newer.path.name, newer.info, newer.item_ids, newer.demand_N)
    return Drift(
        older=side(older),
        newer=side(newer),
        items=Items(common=num_common, added=len(newer.item_ids) - num_common, removed=len(older.item_ids) - num_common),
        same_vector_space=same_space,
        vectors=compare_vectors(older, newer, rows_N) if same_space and num_common else None,
        popularity=compare_popularity(older, newer, rows_N),
        answers=compare_answers(older, newer, rows_N, num_histories) if num_common else None,
        since_training=since,
        advice=advise(since, rules),
    )


def side(release: OpenedRelease) -> Side:
    """What identifies a release in the report."""
    info = release.info
    as_of = None if info.popularity_as_of_ms is None else datetime.fromtimestamp(info.popularity_as_of_ms / 1000, UTC)
    return Side(
        release=release.path.name,
        bundle_id=info.bundle_id,
        vector_space_id=info.vector_space_id,
        num_items=info.num_items,
        popularity_as_of=as_of,
    )


def compare_vectors(older: OpenedRelease, newer: OpenedRelease, rows_N: Ints) -> VectorDrift:
    """Compare the embeddings of common items. `rows_N` maps older rows to newer ones, -1 for removed items."""
    width = older.towers.config.model.width
    common_C = np.flatnonzero(rows_N >= 0)
    cosine_C, changed_C = np.ones(len(common_C)), np.zeros(len(common_C), bool)
    for start in range(0, len(common_C), CHUNK_ITEMS):
        here = slice(start, start + CHUNK_ITEMS)
        before_CD = older.vectors_NV[common_C[here], :width]
        after_CD = newer.vectors_NV[rows_N[common_C[here]], :width]
        moved = (before_CD.view(np.int32) != after_CD.view(np.int32)).any(1)
        changed_C[here] = moved
        cosine_C[here][moved] = cosines(before_CD[moved], after_CD[moved])
    shown = np.flatnonzero(changed_C)
    shown = shown[np.argsort(cosine_C[shown], kind="stable")[:NUM_SHOWN]]
    return VectorDrift(
        bit_equal=int((~changed_C).sum()),
        changed_share=float(changed_C.mean()),
        cosine=percentiles(cosine_C[changed_C]),
        items_by_cosine=by_cosine(cosine_C, changed_C),
        most_moved=[
            Moved(
                item_id=older.item_ids[row].as_py(),
                label=newer.label(int(rows_N[row])),
                cosine=float(cosine_C[place]),
            )
            for place, row in zip(shown, common_C[shown].tolist(), strict=True)
        ],
    )


def cosines(a_CD: Floats, b_CD: Floats) -> npt.NDArray[np.float64]:
    """Cosine of each pair of rows, none of which is zero."""
    a, b = a_CD.astype(np.float64), b_CD.astype(np.float64)
    found: npt.NDArray[np.float64] = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return found


def percentiles(cosine_C: npt.NDArray[np.float64]) -> dict[str, float]:
    """Percentiles of the cosines of changed vectors, from the most changed on; empty when none changed."""
    if not len(cosine_C):
        return {}
    names = {"minimum": 0, "p1": 1, "p10": 10, "median": 50, "p90": 90}
    return dict(zip(names, np.percentile(cosine_C, list(names.values())).tolist(), strict=True))


def by_cosine(cosine_C: npt.NDArray[np.float64], changed_C: npt.NDArray[np.bool_]) -> dict[str, int]:
    """Number of items in each class of cosine, from bit-equal vectors to the most changed ones."""
    place_C = np.searchsorted(-np.array(COSINES), -cosine_C[changed_C])
    counts = np.bincount(place_C, minlength=len(COSINES) + 1).tolist()
    names = [f"{low:g} to {high:g}" for high, low in pairwise((1, *COSINES, -1))]
    return {"bit-equal": int((~changed_C).sum())} | dict(zip(names, counts, strict=True))


def compare_popularity(older: OpenedRelease, newer: OpenedRelease, rows_N: Ints) -> PopularityDrift:
    """Compare demand over the items of either release."""
    before_U, after_U, newer_U = over_either(older.demand_N, newer.demand_N, rows_N)
    common = rows_N >= 0
    ranked = np.stack([older.demand_N[common], newer.demand_N[rows_N[common]]], 1)
    # A side whose values are all equal has no order to compare.
    correlation = float(spearman(ranked)[0, 1]) if len(ranked) and (np.ptp(ranked, 0) > 0).all() else None

    def mover(place: int) -> Mover:
        release, row = (newer, int(newer_U[place])) if newer_U[place] >= 0 else (older, place)
        return Mover(
            item_id=release.item_ids[row].as_py(),
            label=release.label(row),
            before=float(before_U[place]),
            after=float(after_U[place]),
        )

    rise_U = after_U - before_U
    order = np.argsort(rise_U, kind="stable").tolist()
    return PopularityDrift(
        spearman=correlation,
        divergence=divergence(before_U, after_U),
        risers=[mover(place) for place in order[::-1][:NUM_SHOWN] if rise_U[place] > 0],
        fallers=[mover(place) for place in order[:NUM_SHOWN] if rise_U[place] < 0],
    )


def summary(drift: Drift) -> str:
    """The report in one line, for the log of the nightly job."""
    said = [f"+{drift.items.added:,} -{drift.items.removed:,} items"]
    said.append("vectors not comparable" if drift.vectors is None else f"{drift.vectors.changed_share:.1%} of vectors changed")
    if drift.answers is not None:
        said.append(f"overlap@{drift.answers.depth} {drift.answers.overlap:.2f}")
    said.append(f"demand moved by {drift.popularity.divergence:.2f} bits")
    return ", ".join([*said, f"retrain: {drift.advice.retrain}"])
