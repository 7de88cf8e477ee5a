"""Popularity as a nightly release would have known it: one snapshot per day of the log, which excludes that day itself.

Signals, if there are any, follow the half-lives. They are announced ahead, so a snapshot holds those of its own day.

T: snapshots, N: items, P: half-lives and signals, Q: queries
"""

import tempfile
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.data.event_log import EventLog
from twotower.data.features import DAY_MS, Floats, Ints
from twotower.data.popularity import log_popularity
from twotower.data.signals import Signals

MAX_SNAPSHOTS = 400  # a longer log gets steps of several days
CHUNK_EVENTS = 4_000_000


@dataclass(frozen=True, slots=True)
class PopularitySnapshots:
    """Log popularity under each half-life, then the signals, of every item at every snapshot.

    Snapshot t counts the events before `start_ms + t * step_ms`. Its signals are those from that moment on.
    """

    table_PTN: npt.NDArray[np.float32]
    start_ms: int
    step_ms: int

    def index(self, times_ms_Q: Ints) -> Ints:
        """The newest snapshot that is known at each moment."""
        return np.clip((times_ms_Q - self.start_ms) // self.step_ms, 0, self.table_PTN.shape[1] - 1)

    def at(self, times_ms_Q: Ints) -> Floats:
        """Log popularity [P, Q, N] as known at each moment."""
        return self.table_PTN[:, self.index(times_ms_Q)]

    def day(self, time_ms: int) -> Floats:
        """Log popularity [P, N] as known at one moment."""
        return self.table_PTN[:, int(self.index(np.array(time_ms)))]

    def on_days(self, days_T: Ints, rows_C: Ints) -> Floats:
        """Log popularity [P, T, C] of some items at some snapshots, given by their indices."""
        found_PTC = np.empty((len(self.table_PTN), len(days_T), len(rows_C)), np.float32)
        for of_day_TC, of_day_TN in zip(found_PTC, self.table_PTN, strict=True):
            for place, day in enumerate(days_T):  # one by one takes two thirds of the time of one indexing by days and rows
                np.take(of_day_TN[day], rows_C, out=of_day_TC[place], mode="clip")  # with out, this mode copies only once
        return found_PTC

    def of_items(self, times_ms: Ints, rows: Ints) -> Floats:
        """Log popularity [P, ...] of items, each at its own moment; the two arguments broadcast."""
        return self.table_PTN[:, self.index(times_ms), rows]


def take_snapshots(
    log: EventLog, num_items: int, half_lives_days: tuple[float, ...], signals: Signals | None = None
) -> PopularitySnapshots:
    """Daily snapshots over the whole log, on disk in a memory map. Takes 4 bytes of memory per event and one day's counts."""
    start_ms = int(log.times_ms_E.min()) // DAY_MS * DAY_MS
    num_days = (int(log.times_ms_E.max()) - start_ms) // DAY_MS + 2
    step_days = -(-num_days // MAX_SNAPSHOTS)
    num_steps = -(-num_days // step_days)
    with tempfile.TemporaryFile(prefix="twotower-") as file:
        shape = (len(half_lives_days) + (signals.num_signals if signals else 0), num_steps, num_items)
        table_PTN = np.memmap(file, np.float32, "w+", shape=shape)
    step_ms = step_days * DAY_MS
    decay = 0.5 ** (step_days / np.array(half_lives_days))[:, None]
    counts_PN = np.zeros((len(half_lives_days), num_items))
    by_step = _rows_by_step(log, start_ms, step_ms, num_steps)
    for step in range(num_steps):
        table_PTN[: len(half_lives_days), step] = log_popularity(counts_PN)
        counts_PN = counts_PN * decay + np.bincount(by_step[step], minlength=num_items)
    if signals is not None:
        for step, values_NS in enumerate(signals.daily(start_ms, step_ms, num_steps)):
            table_PTN[len(half_lives_days) :, step] = values_NS.T
    return PopularitySnapshots(table_PTN.view(np.ndarray), start_ms, step_ms)


def _rows_by_step(log: EventLog, start_ms: int, step_ms: int, num_steps: int) -> list[npt.NDArray[np.int32]]:
    """Catalogue rows of the events of each step (4 bytes per event)."""
    parts: list[list[npt.NDArray[np.int32]]] = [[] for _ in range(num_steps)]
    for begin in range(0, len(log.times_ms_E), CHUNK_EVENTS):
        step = (log.times_ms_E[begin : begin + CHUNK_EVENTS] - start_ms) // step_ms
        order = np.argsort(step, kind="stable")
        rows = log.item_rows_E[begin : begin + CHUNK_EVENTS][order]
        bounds = np.searchsorted(step[order], np.arange(num_steps + 1))
        for s in range(num_steps):
            parts[s].append(rows[bounds[s] : bounds[s + 1]])
    return [np.concatenate(p) for p in parts]
