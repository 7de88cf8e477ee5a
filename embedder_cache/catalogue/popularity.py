"""The popularity dimensions of a release, counted from the event log or taken from the bundle.

N: items, P: half-lives
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.artefacts.bundle import Bundle
from twotower.data.events import stream_events
from twotower.data.features import DAY_MS, Floats
from twotower.data.new_items import BoughtItems, with_expected
from twotower.data.popularity import decayed_counts, fade, log_popularity
from twotower.progress import say
from twotower.tables.left_out import LeftOut


@dataclass(frozen=True, slots=True)
class Popularity:
    """The popularity dimensions of a catalogue, and since when each item has events."""

    log_NP: Floats
    age_days_N: Floats  # since the first event; 0 where there is none, or none were counted
    as_of_ms: int | None = None  # time of the last event; None when popularity is that of training
    coverage: float | None = None  # the catalogue's share of the events, each weighted by its age and the first half-life


def popularity_from_events(events: Path, bundle: Bundle, item_ids: pa.Array) -> Popularity:
    """Popularity as of the last event. One pass; the log may be in any order."""
    half_lives = bundle.towers.config.popularity_half_lives_days
    counts_PN, all_P1 = np.zeros((len(half_lives), len(item_ids))), np.zeros((len(half_lives), 1))
    first_ms_N = np.full(len(item_ids), np.iinfo(np.int64).max)
    as_of_ms = 0
    left_out = LeftOut()
    for batch in stream_events(events, bundle.towers.schema.events, left_out=left_out):
        newest = max(as_of_ms, int(batch.times_ms_E.max()))
        elapsed_ms = newest - as_of_ms if as_of_ms else 0
        counts_PN, all_P1 = fade(counts_PN, elapsed_ms, half_lives), fade(all_P1, elapsed_ms, half_lives)
        as_of_ms = newest
        rows = pc.index_in(batch.item_ids, item_ids)
        known = rows.is_valid().to_numpy(zero_copy_only=False)
        rows_E = rows.drop_null().to_numpy(zero_copy_only=False)
        np.minimum.at(first_ms_N, rows_E, batch.times_ms_E[known])
        counts_PN += decayed_counts(rows_E, batch.times_ms_E[known], as_of_ms, half_lives, len(item_ids))
        all_P1 += decayed_counts(np.zeros(len(known), np.int64), batch.times_ms_E, as_of_ms, half_lives, 1)
    for line in left_out.lines("events"):
        say(f"  {line}")
    age_days_N = np.maximum(as_of_ms - first_ms_N, 0).astype(np.float32) / np.float32(DAY_MS)
    return Popularity(log_popularity(counts_PN).T, age_days_N, as_of_ms, float(counts_PN[0].sum() / all_P1[0, 0]))


def popularity_from_bundle(bundle: Bundle, item_ids: pa.Array) -> Popularity:
    """Popularity as of the end of training. An item that the bundle does not list gets the lowest, and no trend."""
    known = bundle.popularity.column("log_popularity").combine_chunks()
    half_lives = bundle.towers.config.popularity_half_lives_days
    values_NP = np.stack(known.to_pylist()).astype(np.float32)[:, : len(half_lives)]  # signals of training are stale
    rows = pc.index_in(item_ids, bundle.popularity.column("item_id").combine_chunks())
    filled = rows.fill_null(0).to_numpy(zero_copy_only=False)
    missing = rows.is_null().to_numpy(zero_copy_only=False)
    popularity_of_new_items_P = np.zeros(len(half_lives), np.float32)
    popularity_of_new_items_P[0] = values_NP[:, 0].min()
    log_NP = np.asarray(np.where(missing[:, None], popularity_of_new_items_P, values_NP[filled]), np.float32)
    return Popularity(log_NP, np.zeros(len(item_ids), np.float32))


def expect_new_items(vectors_NV: Floats, bundle: Bundle, item_ids: pa.Array, age_days_N: Floats) -> None:
    """Add to the popularity in the vectors, for items that training did not know, what the bought items most like them sell."""
    width, half_life = bundle.towers.config.model.width, bundle.towers.config.popularity_half_lives_days[0]
    known_N = pc.is_in(item_ids, bundle.popularity.column("item_id").combine_chunks()).to_numpy(zero_copy_only=False)
    new = np.flatnonzero(~known_N)
    if not len(new):
        return
    log_N = np.array(vectors_NV[:, width])
    bought = BoughtItems.of(vectors_NV[:, :width], log_N, np.flatnonzero(known_N))
    if not len(bought.rows_B):
        return
    neighbours_AK = bought.log_popularity_B[bought.nearest(vectors_NV[new, :width])]
    vectors_NV[new, width] = with_expected(log_N[new], neighbours_AK, age_days_N[new], half_life)
