"""The anchored window: which events of a history the model reads. Training and serving both call this.

A window over the last 256 events would shift all positions with every event. This one moves its start only every 64 events,
so that positions, and the cached keys and values that depend on them, stay valid in between.

B: histories in a batch, L: events of the longest, S: hash slots of an event's context, F: its dense features, R: searches
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from twotower.data.features import EVENT_TIME_WIDTH, EncodedRows, Ints, event_time_features

WINDOW = 256  # events that the contextualizer reads at most, as in Brüel Gabrielsson 2026 (arXiv 2606.05257)
PAGE = 64  # events by which the start of the window moves


def anchor(num_events: int, window: int = WINDOW, page: int = PAGE) -> int:
    """First event of the window of a history of `num_events`. A full window has `window - page + 1` to `window` events."""
    return 0 if num_events <= window else -(-(num_events - window) // page) * page


@dataclass(frozen=True, slots=True)
class History:
    """Events [anchor, n) of one user, oldest first: catalogue rows, times, and the encoded context of each event.

    Search s of the history, counted from 0, has the row -1 - s and its text in `queries[s]`.
    """

    item_rows_L: Ints
    times_ms_L: Ints
    context: EncodedRows
    queries: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.item_rows_L)

    def with_searches(self, searches: "Searches", places_R: Ints) -> "History":
        """A history of items with searches inserted: each before the event at its place, in ascending order."""
        if not len(searches):
            return self
        assert not self.queries, "it has none yet"
        context = (self.context.slots_NS, self.context.weights_NS, self.context.dense_NF)
        added = (searches.context.slots_NS, searches.context.weights_NS, searches.context.dense_NF)
        return History(
            np.insert(self.item_rows_L, places_R, -1 - np.arange(len(searches))),
            np.insert(self.times_ms_L, places_R, searches.times_ms_R),
            EncodedRows(*(np.insert(ours, places_R, theirs, 0) for ours, theirs in zip(context, added, strict=True))),
            searches.queries,
        )


@dataclass(frozen=True, slots=True)
class Searches:
    """Searches of one user, oldest first."""

    queries: tuple[str, ...]
    times_ms_R: Ints
    context: EncodedRows

    def __len__(self) -> int:
        return len(self.queries)


@dataclass(frozen=True, slots=True)
class HistoryBatch:
    """Histories padded on the right with row 0. Causal attention keeps the padding from changing real events.

    Search s of the batch, counted from 0 over all histories, has the row -1 - s.
    """

    item_rows_BL: Tensor
    time_BL6: Tensor
    slots_BLS: Tensor
    weights_BLS: Tensor
    dense_BLF: Tensor
    lengths_B: Tensor

    def take(self, members: Tensor, length: int) -> "HistoryBatch":
        """Some of the histories, padded to `length`."""
        return HistoryBatch(
            self.item_rows_BL[members, :length],
            self.time_BL6[members, :length],
            self.slots_BLS[members, :length],
            self.weights_BLS[members, :length],
            self.dense_BLF[members, :length],
            self.lengths_B[members],
        )


def collate(histories: Sequence[History]) -> HistoryBatch:
    """One padded batch, at least one event long, so that an empty history has a position."""
    batch, length = len(histories), max(1, max(map(len, histories)))
    num_slots = histories[0].context.slots_NS.shape[1]
    num_dense = histories[0].context.dense_NF.shape[1]
    rows = np.zeros((batch, length), np.int64)
    time = np.zeros((batch, length, EVENT_TIME_WIDTH), np.float32)
    slots = np.zeros((batch, length, num_slots), np.int64)
    weights = np.zeros((batch, length, num_slots), np.float32)
    dense = np.zeros((batch, length, num_dense), np.float32)
    num_searches = 0
    for b, history in enumerate(histories):
        n = len(history)
        rows[b, :n] = history.item_rows_L - num_searches * (history.item_rows_L < 0) if history.queries else history.item_rows_L
        num_searches += len(history.queries)
        time[b, :n] = event_time_features(history.times_ms_L)
        slots[b, :n] = history.context.slots_NS
        weights[b, :n] = history.context.weights_NS
        dense[b, :n] = history.context.dense_NF
    lengths = np.array([len(h) for h in histories])
    return HistoryBatch(*map(torch.from_numpy, (rows, time, slots, weights, dense, lengths)))
