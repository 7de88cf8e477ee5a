"""The state of one user: the events read, the model's memory of them, and past items.

L: events, M: past items, V: vector width
"""

from collections.abc import Mapping, Sequence
from itertools import takewhile

import numpy as np
import numpy.typing as npt

from service.histories.history import PastItem, StoredEvent
from service.states.memory import ArrayMemory, Memory, PastParts
from service.states.state_file import State
from twotower.data.features import Ints
from twotower.data.item_statistics import ItemStatistics

NO_RELEASE = -1  # of a state that comes from the file
_BYTES_PER_ITEM = 200  # about what the entries of dictionaries take
_BYTES_PER_EVENT = 300  # of an event that only this state holds, such as an inline event of a session


class PastState:
    """Past items of one user: their statistics as arrays, and what the model has computed from them."""

    __slots__ = ("_items", "_place", "parts", "statistics")

    def __init__(self, parts: PastParts) -> None:
        self._items: Mapping[str, PastItem] = {}
        self._place: dict[str, int] = {}
        self.parts = parts
        self.statistics = ItemStatistics.empty()

    @property
    def num_bytes(self) -> int:
        """Bytes of the arrays, and an estimate for the dictionaries."""
        return sum(part.nbytes for part in self.parts) + _BYTES_PER_ITEM * len(self._items)

    def beyond(self, items: Mapping[str, PastItem]) -> list[str] | None:
        """Ids of `items` that are new. None if `items` does not begin with the known items: then a new state is needed."""
        if items is self._items:
            return []
        ids = list(items)
        return ids[len(self._items) :] if ids[: len(self._items)] == list(self._items) else None

    def update(self, items: Mapping[str, PastItem], added: Sequence[str], added_rows: Ints, parts: PastParts) -> None:
        """Move on to `items`. Of the new ones, only `added` are in the release; they have these rows and parts."""
        before, self._items = self._items, items
        changed = [i for i, then, now in zip(before, before.values(), items.values(), strict=False) if then is not now]
        known = [i for i in changed if i in self._place]
        if added:
            self._append([items[i] for i in added], added, added_rows, parts)
        if known:
            s, places, values = self.statistics, [self._place[i] for i in known], [items[i] for i in known]
            s.count_M[places] = [o.count for o in values]
            s.first_ms_M[places] = [o.first_ms for o in values]
            s.last_ms_M[places] = [o.last_ms for o in values]
            s.decayed_M3[places] = [o.decayed for o in values]

    def _append(self, values: Sequence[PastItem], ids: Sequence[str], rows: Ints, parts: PastParts) -> None:
        s, first = self.statistics, len(self.statistics)
        self._place.update((item_id, first + place) for place, item_id in enumerate(ids))
        self.statistics = ItemStatistics(
            np.concatenate([s.item_rows_M, rows]),
            np.concatenate([s.count_M, [o.count for o in values]]),
            np.concatenate([s.first_ms_M, [o.first_ms for o in values]]),
            np.concatenate([s.last_ms_M, [o.last_ms for o in values]]),
            np.concatenate([s.decayed_M3, [o.decayed for o in values]]),
        )
        self.parts = PastParts(
            np.concatenate([self.parts.vector_MV, parts.vector_MV]),
            np.concatenate([self.parts.key_HMA, parts.key_HMA], 1),
            np.concatenate([self.parts.value_HMD, parts.value_HMD], 1),
            np.concatenate([self.parts.repeat_MZ, parts.repeat_MZ]),
        )

    def without(self, item_id: str, row: int) -> "PastState":
        """A copy of the state without this item."""
        kept_M = self.statistics.item_rows_M != row
        copy = PastState(self.parts)
        copy._items = {other: item for other, item in self._items.items() if other != item_id}
        kept = [other for other in self._place if other != item_id]
        copy._place = {other: place for place, other in enumerate(kept)}
        copy.parts = PastParts(
            self.parts.vector_MV[kept_M],
            self.parts.key_HMA[:, kept_M],
            self.parts.value_HMD[:, kept_M],
            self.parts.repeat_MZ[kept_M],
        )
        s = self.statistics
        copy.statistics = ItemStatistics(
            s.item_rows_M[kept_M], s.count_M[kept_M], s.first_ms_M[kept_M], s.last_ms_M[kept_M], s.decayed_M3[kept_M]
        )
        return copy


class UserState:
    """The state of one user: the events read, the model's memory of them, and past items.

    `release` is the number of the release that the past items are of. `prints_L` are the fingerprints of the item vectors that
    the events were read with.
    """

    __slots__ = ("events", "memory", "past", "prints_L", "release")

    def __init__(self, memory: Memory, no_items: PastParts, release: int) -> None:
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

    def move_on(self, release: int, prints_L: npt.NDArray[np.uint64], no_items: PastParts) -> bool:
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
