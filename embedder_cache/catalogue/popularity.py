"""The popularity dimensions of a release, counted from the event log or taken from the bundle.

N: items, P: half-lives
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.artefacts.bundle import Bundle
from twotower.data.events import stream_events
from twotower.data.features import Floats
from twotower.data.popularity import decayed_counts, fade, log_popularity
from twotower.progress import say
from twotower.tables.left_out import LeftOut


def popularity_from_events(events: Path, bundle: Bundle, item_ids: pa.Array) -> tuple[Floats, int, float]:
    """Log popularity [N, P] as of the last event, that event's time in ms, and the catalogue's coverage of recent events.

    Coverage is a share of events, each weighted by its age and the first half-life. One pass; the log may be in any order.
    """
    half_lives = bundle.towers.config.popularity_half_lives_days
    counts_PN, all_P1 = np.zeros((len(half_lives), len(item_ids))), np.zeros((len(half_lives), 1))
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
        counts_PN += decayed_counts(rows_E, batch.times_ms_E[known], as_of_ms, half_lives, len(item_ids))
        all_P1 += decayed_counts(np.zeros(len(known), np.int64), batch.times_ms_E, as_of_ms, half_lives, 1)
    for line in left_out.lines("events"):
        say(f"  {line}")
    return log_popularity(counts_PN).T, as_of_ms, float(counts_PN[0].sum() / all_P1[0, 0])


def popularity_from_bundle(bundle: Bundle, item_ids: pa.Array) -> Floats:
    """Log popularity [N, P] as of the end of training. An item that the bundle does not list gets the lowest, and no trend."""
    known = bundle.popularity.column("log_popularity").combine_chunks()
    half_lives = bundle.towers.config.popularity_half_lives_days
    values_NP = np.stack(known.to_pylist()).astype(np.float32)[:, : len(half_lives)]  # signals of training are stale
    rows = pc.index_in(item_ids, bundle.popularity.column("item_id").combine_chunks())
    filled = rows.fill_null(0).to_numpy(zero_copy_only=False)
    missing = rows.is_null().to_numpy(zero_copy_only=False)
    popularity_of_new_items_P = np.zeros(len(half_lives), np.float32)
    popularity_of_new_items_P[0] = values_NP[:, 0].min()
    return np.asarray(np.where(missing[:, None], popularity_of_new_items_P, values_NP[filled]), np.float32)
