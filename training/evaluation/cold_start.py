"""The planted cold-start protocol: items with events are hidden from training, and must be found by their content.

Naturally cold items are few and untypical. So a share of the items that have training events, stratified by popularity, loses
every event before the test part and stays in the catalogue: for the model they are launched on the first day of the test part.
From then on they have the popularity that the nightly job expects of new items. The full catalogue is ranked.

N: items, E: events, Q: queries, A: answers, U: users, L: items launched, K: neighbours, T: snapshots, D: item vector width
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from training.data.event_log import EventLog
from training.data.popularity_snapshots import take_snapshots
from training.data.read import Data
from training.evaluation.content_neighbours import content_neighbours
from training.evaluation.metrics import Array, Flags, Rankings, mean, recall
from training.evaluation.rankers import Popularity, Ranker, next_basket, rank
from training.evaluation.splits import model_of
from twotower.artefacts.bundle import Towers
from twotower.data.features import DAY_MS, EncodedRows, Floats, Ints
from twotower.data.new_items import BoughtItems, with_expected
from twotower.device import ON_CPU, Device
from twotower.errors import DataError
from twotower.metrics.ranking import user_bootstrap
from twotower.model.catalogue import stream_items
from twotower.progress import say, step

PLANTED = "planted_cold_items"  # key in metrics.json of a bundle: the ids of the items that were hidden from training
SHOWN = {
    "recall@10": "R@10",
    "warm_recall@10": "warm R@10",
    "cold_recall@10": "cold R@10",
    "cold_recall@100": "cold R@100",
    "cold_unseen_recall@10": "cold unseen R@10",
    "cold_unseen_recall@100": "cold unseen R@100",
    "cold_median_rank": "cold median rank",
    "cold_share@10": "cold share of top 10",
}  # metrics, and their names in a table
CHUNK_EVENTS = 1_000_000


@dataclass(frozen=True, slots=True)
class Planted:
    """Data from which the planted items' events were removed, and the planted items."""

    data: Data
    rows: Ints  # catalogue rows, sorted

    @property
    def item_ids(self) -> list[str]:
        """Their ids, which the bundle keeps because evaluation must hide the same items."""
        ids: list[str] = pc.take(self.data.item_ids, pa.array(self.rows)).to_pylist()
        return ids


def plant(data: Data, share: float, half_lives_days: tuple[float, ...], seed: int) -> Planted:
    """Hide a seeded share of the items that have training events. Consumes `data`: its log is compacted in place."""
    planted = withhold(data, choose(data.train_count_N, share, seed), half_lives_days)
    lost = data.log.report.num_used - int(planted.data.log.offsets_U1[-1])
    say(f"  {len(planted.rows):,} items planted cold: {lost:,} of their events are withheld")
    return planted


def plant_again(data: Data, item_ids: Sequence[str], half_lives_days: tuple[float, ...]) -> Planted:
    """Hide the items that were hidden when a bundle was trained. Consumes `data`. DataError if the catalogue lacks some."""
    rows = pc.index_in(pa.array(item_ids, pa.string()), data.item_ids)
    if rows.null_count:
        raise DataError(
            f"{rows.null_count:,} of the bundle's {len(rows):,} planted items are not in the catalogue: give the items that it "
            f"was trained with"
        )
    return withhold(data, np.sort(rows.to_numpy().astype(np.int64)), half_lives_days)


def planted_items(path: Path, metrics: Mapping[str, Any]) -> list[str]:
    """The items that were hidden when a bundle was trained; DataError if none were."""
    if PLANTED not in metrics:
        raise DataError(f"{path} was trained on every item: train a bundle with `twotower train ... --plant-cold 0.05`")
    hidden: list[str] = metrics[PLANTED]
    return hidden


def choose(train_count_N: Ints, share: float, seed: int) -> Ints:
    """Sorted rows of a random share of the items with training events: one of each stratum of 1/share by popularity."""
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(train_count_N)
    by_popularity = rows[np.lexsort((rng.random(len(rows)), train_count_N[rows]))]
    strata = np.array_split(by_popularity, max(1, round(len(rows) * share)))
    return np.sort([rng.choice(stratum) for stratum in strata])


def withhold(data: Data, rows: Ints, half_lives_days: tuple[float, ...]) -> Planted:
    """`data` without the events of `rows` before the test part, and with popularity counted again."""
    hidden_N = np.zeros(len(data.item_ids), bool)
    hidden_N[rows] = True
    keep_E = ~(hidden_N[data.log.item_rows_E] & (data.log.times_ms_E < data.test_from_ms))
    log = compacted(data.log, keep_E)
    snapshots = take_snapshots(log, len(data.item_ids), half_lives_days, data.signals)
    return Planted(replace(data, log=log, snapshots=snapshots), rows)


def launch(planted: Planted, vectors_ND: Floats, half_life_days: float) -> None:
    """Give the planted items, from the test part on, the popularity of new items in a release. Changes the snapshots in place."""
    data, rows = planted.data, planted.rows
    snapshots, log_TN = data.snapshots, data.snapshots.table_PTN[0]
    launch_step = int(snapshots.index(np.array(data.test_from_ms)))
    bought = BoughtItems.of(vectors_ND, log_TN[launch_step], np.arange(len(vectors_ND)))
    neighbours_LK = bought.rows_B[bought.nearest(vectors_ND[rows])]
    first_ms_N = np.full(len(vectors_ND), data.end_ms)
    np.minimum.at(first_ms_N, data.log.item_rows_E, data.log.times_ms_E)
    for day in range(launch_step, len(log_TN)):
        age_days_L = np.maximum(snapshots.start_ms + day * snapshots.step_ms - first_ms_N[rows], 0) / DAY_MS
        log_TN[day, rows] = with_expected(log_TN[day, rows], log_TN[day, neighbours_LK], age_days_L, half_life_days)


def compacted(log: EventLog, keep_E: Flags) -> EventLog:
    """The log of the events to keep and of the users who have any. Overwrites the log's arrays, as a copy may not fit."""
    kept_before = np.concatenate([[0], np.cumsum(keep_E)])
    offsets_U1 = kept_before[log.offsets_U1]
    there_U = np.diff(offsets_U1) > 0
    context = log.context
    return replace(
        log,
        user_ids=[user for user, there in zip(log.user_ids, there_U, strict=True) if there],
        offsets_U1=np.concatenate([[0], offsets_U1[1:][there_U]]),
        item_rows_E=_compact(log.item_rows_E, keep_E),
        times_ms_E=_compact(log.times_ms_E, keep_E),
        types_E=_compact(log.types_E, keep_E),
        context=EncodedRows(*(_compact(x, keep_E) for x in (context.slots_NS, context.weights_NS, context.dense_NF))),
        searches=log.searches.kept(kept_before, there_U) if log.searches else None,
    )


def _compact(array: npt.NDArray[Any], keep_E: Flags) -> npt.NDArray[Any]:
    """Move the rows to keep to the front, in place, and return a view of them."""
    end = 0
    for start in range(0, len(keep_E), CHUNK_EVENTS):
        kept = array[start : start + CHUNK_EVENTS][keep_E[start : start + CHUNK_EVENTS]]
        array[end : end + len(kept)] = kept
        end += len(kept)
    return array[:end]


def compare_cold(planted: Planted, towers: Towers, items: Path, device: Device = ON_CPU) -> dict[str, dict[str, float]]:
    """Metrics of a bundle's model and of two baselines without training: content similarity, and daily popularity.

    Changes the snapshots of `planted`, see `launch`.
    """
    data, columns = planted.data, towers.schema.items
    model = model_of(data, towers, items, device)
    launch(planted, model.vectors_ND.cpu().numpy(), towers.config.popularity_half_lives_days[0])
    rankers: dict[str, Ranker] = {
        "model": model,
        "content_knn": content_neighbours(data.log, stream_items(items, columns), towers.config.model.item_spec),
        "popularity": Popularity(data.snapshots),
    }
    return evaluate_cold(planted, rankers)


def evaluate_cold(planted: Planted, rankers: Mapping[str, Ranker]) -> dict[str, dict[str, float]]:
    """Metrics of each ranker on the test part's baskets, and 95 % intervals of the first minus each other."""
    data = planted.data
    queries = next_basket(data.log, data.test_from_ms, data.end_ms)
    if not queries:
        raise DataError("nothing to evaluate: no event lies at or after the split's test_from")
    with step("rank cold start", total=len(queries), unit="queries") as work:
        ranked = rank(rankers, data.log, queries, data.train_count_N, work.advance)
    cold_A = np.isin(np.concatenate([q.answers for q in queries]), planted.rows)
    result = {name: cold_metrics(rankings, cold_A, planted.rows) for name, rankings in ranked.items()}
    first, *others = ranked
    ours = cold_recalls(ranked[first], cold_A)
    for other in others:
        for name, theirs_Q in cold_recalls(ranked[other], cold_A).items():
            result[first] |= interval(f"minus {other}: {name}", ours[name] - theirs_Q, ranked[first].user_Q)
    return result


def cold_metrics(rankings: Rankings, cold_A: Flags, planted: Ints) -> dict[str, float]:
    """Recall of warm, cold and all answers. `cold_unseen` are first purchases, ranked among items that the user never had.

    Answers that have no training events but are not planted count in the overall recall only.
    """
    everything = np.ones(len(cold_A), bool)
    result = {
        "queries": float(len(rankings.user_Q)),
        "cold_answers": float(cold_A.sum()),
        "recall@10": mean(recall(rankings, rankings.rank_A, 10, everything)),
        "warm_recall@10": mean(recall(rankings, rankings.rank_A, 10, rankings.train_count_A > 0)),
        "cold_median_rank": float(np.median(rankings.rank_A[cold_A])) if cold_A.any() else float("nan"),
        "cold_share@10": float(np.isin(rankings.top10_QK, planted).mean()),
    }
    for name, values_Q in cold_recalls(rankings, cold_A).items():
        result[name] = mean(values_Q)
        result |= interval(name, values_Q, rankings.user_Q)
    # JSON has no NaN, so metrics without a value are left out.
    return {name: value for name, value in result.items() if not np.isnan(value)}


def cold_recalls(rankings: Rankings, cold_A: Flags) -> dict[str, Array]:
    """Recall values [Q] of cold answers; NaN for a query without such answers."""
    new_A = cold_A & ~rankings.past_A
    return {
        "cold_recall@10": recall(rankings, rankings.rank_A, 10, cold_A),
        "cold_recall@100": recall(rankings, rankings.rank_A, 100, cold_A),
        "cold_unseen_recall@10": recall(rankings, rankings.unseen_rank_A, 10, new_A),
        "cold_unseen_recall@100": recall(rankings, rankings.unseen_rank_A, 100, new_A),
    }


def interval(name: str, values_Q: Array, user_Q: Ints) -> dict[str, float]:
    """95 % interval of a mean over queries, as two named metrics; empty when all values are NaN."""
    if np.isnan(values_Q).all():
        return {}
    low, high = user_bootstrap(values_Q, user_Q)
    return {f"{name}.low": low, f"{name}.high": high}
