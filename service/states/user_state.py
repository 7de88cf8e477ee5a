"""The state of one user: the events read, the model's memory of them, and past items.

L: events, M: past items, S: columns of what a reader keeps of one
"""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from service.histories.history import PastItem, StoredEvent
from service.states.memory import ArrayMemory, Memory
from service.states.state_file import State
from twotower.data.features import Floats, Ints
from twotower.data.item_statistics import ItemStatistics
from twotower.data.window import PAGE

NO_RELEASE = -1  # of a state that comes from the file
_BYTES_PER_ITEM = 200  # about what the entries of dictionaries take
_BYTES_PER_EVENT = 300  # of an event that only this state holds, such as an inline event of a session


class Rows(NamedTuple):
    """Past items: row in the catalogue, count, first and last time of each, decayed counts, and what the reader keeps of it."""

    numbers_M4: Ints
    decayed_M3: npt.NDArray[np.float64]
    parts_MS: Floats

    @property
    def num(self) -> int:
        """The number of items."""
        return len(self.numbers_M4)

    def first(self, num: int) -> "Rows":
        """The first items, without a copy."""
        return Rows(self.numbers_M4[:num], self.decayed_M3[:num], self.parts_MS[:num])

    def longer(self, num: int) -> "Rows":
        """A copy with room for so many items."""
        more = Rows(np.empty((num, 4), np.int64), np.empty((num, 3)), np.empty((num, self.parts_MS.shape[1]), np.float32))
        more.numbers_M4[: self.num], more.decayed_M3[: self.num], more.parts_MS[: self.num] = self
        return more

    def kept(self, kept_M: npt.NDArray[np.bool_]) -> "Rows":
        """A copy of some items."""
        return Rows(self.numbers_M4[kept_M], self.decayed_M3[kept_M], self.parts_MS[kept_M])


class PastState:
    """Past items of one user: their statistics as arrays, and what the model has computed from them. It grows by whole pages."""

    __slots__ = ("_items", "_place", "_room", "_rows")

    def __init__(self, none_0S: Floats) -> None:
        self._items: Mapping[str, PastItem] = {}
        self._place: dict[str, int] = {}
        self._room = self._rows = Rows(np.zeros((0, 4), np.int64), np.zeros((0, 3)), none_0S)

    @property
    def rows(self) -> Rows:
        """The items that are in the release, in the order in which they came first. Valid until the next update."""
        return self._rows

    @property
    def statistics(self) -> ItemStatistics:
        """Statistics of the items of `rows`."""
        item_rows_M, count_M, first_ms_M, last_ms_M = self._rows.numbers_M4.T
        return ItemStatistics(item_rows_M, count_M, first_ms_M, last_ms_M, self._rows.decayed_M3)

    @property
    def num_bytes(self) -> int:
        """Bytes of the arrays, room for further items included, and an estimate for the dictionaries."""
        return sum(part.nbytes for part in self._room) + _BYTES_PER_ITEM * len(self._items)

    def beyond(self, items: Mapping[str, PastItem]) -> list[str] | None:
        """Ids of `items` that are new. None if `items` does not begin with the known items: then a new state is needed."""
        if items is self._items:
            return []
        ids = list(items)
        return ids[len(self._items) :] if ids[: len(self._items)] == list(self._items) else None

    def update(self, items: Mapping[str, PastItem], added: Sequence[str], added_rows: Ints, parts_MS: Floats) -> None:
        """Move on to `items`. Of the new ones, only `added` are in the release; they have these rows and parts."""
        before, self._items = self._items, items
        for (item_id, then), now in zip(before.items(), items.values(), strict=False):
            if then is not now and (place := self._place.get(item_id)) is not None:
                self._rows.numbers_M4[place, 1:] = (now.count, now.first_ms, now.last_ms)
                self._rows.decayed_M3[place] = now.decayed
        if added:
            self._append(added, [items[i] for i in added], added_rows, parts_MS)

    def _append(self, ids: Sequence[str], items: Sequence[PastItem], item_rows: Ints, parts_MS: Floats) -> None:
        first, stop = self._rows.num, self._rows.num + len(ids)
        self._place.update(zip(ids, range(first, stop), strict=True))
        if stop > self._room.num:
            self._room = self._rows.longer(-(-stop // PAGE) * PAGE)
        self._rows = rows = self._room.first(stop)
        numbers = [(row, o.count, o.first_ms, o.last_ms) for row, o in zip(item_rows.tolist(), items, strict=True)]
        rows.numbers_M4[first:], rows.decayed_M3[first:], rows.parts_MS[first:] = numbers, [o.decayed for o in items], parts_MS

    def without(self, item_id: str, row: int) -> "PastState":
        """A copy of the state without this item."""
        kept_M = self._rows.numbers_M4[:, 0] != row
        copy = PastState(self._rows.parts_MS[:0])
        copy._items = {other: item for other, item in self._items.items() if other != item_id}
        copy._place = {other: place for place, other in enumerate(other for other in self._place if other != item_id)}
        copy._room = copy._rows = self._rows.kept(kept_M)
        return copy


class UserState:
    """The state of one user: the events read, the model's memory of them, and past items.

    `release` is the number of the release that the past items are of. `prints_L` are the fingerprints of the item vectors that
    the events were read with.
    """

    __slots__ = ("events", "memory", "past", "prints_L", "release")

    def __init__(self, memory: Memory, no_items: Floats, release: int) -> None:
        self.events: tuple[StoredEvent, ...] = ()
        self.prints_L = np.zeros(0, np.uint64)
        self.memory = memory
        self.past = PastState(no_items)
        self.release = release

    @property
    def num_bytes(self) -> int:
        """Bytes of the state, an estimate."""
        return self.memory.num_bytes + self.past.num_bytes + _BYTES_PER_EVENT * len(self.events)

    @property
    def in_file(self) -> State | None:
        """What of the state can be kept in a file; None if nothing was read, or if a device has it."""
        if not isinstance(self.memory, ArrayMemory) or not self.memory.length:
            return None
        return State(self.events, self.memory, self.prints_L)

    def keep(self, events: tuple[StoredEvent, ...]) -> int:
        """Keep what was read of these events and forget the rest; returns how many of them need not be read again.

        If all of them were read, and further events after them, then the last one must be read again: only the hidden state
        after the very last event was kept.
        """
        known = len(self.events) if events[: len(self.events)] == self.events else common(self.events, events)
        self._cut(known)
        if known == len(events) and known and not self.memory.knows_last:
            self._cut(known - 1)
        self.events = events[: self.memory.length]
        return self.memory.length

    def move_on(self, release: int, prints_L: npt.NDArray[np.uint64], no_items: Floats) -> bool:
        """Become a state of another release of the same bundle, in which the items of `events` have these fingerprints.

        Returns whether events must be read again: those from the first on whose item has another vector there.
        """
        different = np.flatnonzero(self.prints_L != prints_L)
        self.past, self.release = PastState(no_items), release
        if len(different):
            self._cut(int(different[0]))
            self.events = self.events[: self.memory.length]
        return len(different) > 0

    def _cut(self, length: int) -> None:
        self.memory.cut(length)
        self.prints_L = self.prints_L[: self.memory.length]

    def without(self, item_id: str, row: int) -> "UserState":
        """A copy of the state as if the user never had this item. It keeps the events before the first one with the item."""
        copy = UserState.__new__(UserState)
        copy.memory, copy.past, copy.release = self.memory.copy(), self.past.without(item_id, row), self.release
        copy.events = tuple(takewhile(lambda event: event.item_id != item_id, self.events))
        copy.prints_L = self.prints_L
        copy._cut(len(copy.events))
        return copy


def common(first: Sequence[StoredEvent], second: Sequence[StoredEvent]) -> int:
    """The number of equal events at the beginning of both."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
