"""Whether a release may be served with rounded products: its results must stay those of float32.

K: results
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from service.histories.history import StoredEvent
from service.model.reader import Question
from service.release.loaded import LoadedRelease
from service.states.user_state import PastState
from twotower.model.golden import EVENT_TYPE, GoldenQuery

MIN_OVERLAP = 0.99  # of the ten best items, on average
TOP = 10
_STEP = 8  # events between two beginnings of the longest golden history, each of which is a question of its own

_log = logging.getLogger("twotower.release")


def with_products_in(release: LoadedRelease, dtype: torch.dtype, golden: Sequence[GoldenQuery]) -> LoadedRelease:
    """The release with products in this dtype; with float32 if rounding changes too many results, which is logged."""
    if dtype == torch.float32:
        return release
    rounded = replace(release, dtype=dtype)
    share = overlap(release, rounded, histories_of(golden))
    if share >= MIN_OVERLAP:
        return rounded
    _log.warning("%s is served in fp32: in bf16 only %.3f of its best %d items are the same", release.id, share, TOP)
    return release


def histories_of(golden: Sequence[GoldenQuery]) -> list[tuple[StoredEvent, ...]]:
    """The histories of golden queries, and beginnings of the longest. Those of one event or none are never rounded."""
    events = [
        tuple(
            StoredEvent(user_id="", event_type=EVENT_TYPE, time_ms=time_ms, item_id=item_id)
            for item_id, time_ms in zip(query.item_ids, query.times_ms, strict=True)
        )
        for query in golden
    ]
    longest = max(events, key=len, default=())
    return [history for history in [*events, *(longest[:stop] for stop in range(_STEP, len(longest), _STEP))] if len(history) > 1]


def overlap(exact: LoadedRelease, rounded: LoadedRelease, histories: Sequence[tuple[StoredEvent, ...]]) -> float:
    """The mean share of the best items of one release that the other finds too; 1 without histories."""
    shares = [len(best(exact, events) & best(rounded, events)) / min(TOP, len(exact)) for events in histories]
    return float(np.mean(shares)) if shares else 1.0


def best(release: LoadedRelease, events: tuple[StoredEvent, ...]) -> set[int]:
    """Rows of the best items after these events, for a user without past items."""
    reader, no_rows = release.reader, np.zeros(0, np.int64)
    question = Question(reader.new_memory(), events, PastState(reader.past_parts(no_rows)), None, events[-1].time_ms)
    (query,) = reader.answer([question])
    rows, _ = release.search(query.query_V[None], TOP, None)
    return set(rows.tolist())
