"""What the model keeps of the users it answered last, so that the next request reads only what is new.

Nothing here is trusted: a state is used as far as its events are those of the request, event by event, and the rest is read
again. It belongs to one release and is forgotten with it.

L: events, M: past items, V: vector width
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from service.histories.history import PastItem, StoredEvent
from service.model.incremental import Memory, PastParts
from twotower.data.features import Ints
from twotower.data.item_statistics import ItemStatistics
from twotower.model.config import ModelConfig

Key = tuple[str, str]  # "user" or "session", and its id

_BYTES_PER_ITEM = 200  # of the dictionaries' own, about
_BYTES_PER_EVENT = 300  # of one that only a session brought along
_PROTECTED = 0.8  # share of the budget for users who came back


class PastState:
    """Past items of one user: their statistics as arrays, and what the model makes of them."""

    __slots__ = ("_items", "_place", "parts", "statistics")

    def __init__(self, parts: PastParts) -> None:
        self._items: Mapping[str, PastItem] = {}
        self._place: dict[str, int] = {}
        self.parts = parts  # of no item
        self.statistics = ItemStatistics.empty()

    @property
    def num_bytes(self) -> int:
        """Of the arrays, and about that of the rest."""
        return sum(part.nbytes for part in self.parts) + _BYTES_PER_ITEM * len(self._items)

    def beyond(self, items: Mapping[str, PastItem]) -> list[str] | None:
        """Ids of `items` after those that are here; None when it does not go on from them, and a new state must be begun."""
        if items is self._items:
            return []
        ids = list(items)
        return ids[len(self._items) :] if ids[: len(self._items)] == list(self._items) else None

    def update(self, items: Mapping[str, PastItem], added: Sequence[str], added_rows: Ints, parts: PastParts) -> None:
        """Go on to `items`; of those beyond what is here, only the `added` are the release's."""
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


class UserState:
    """One user: the events read, the model's memory of them, and past items."""

    __slots__ = ("events", "memory", "past")

    def __init__(self, config: ModelConfig, no_items: PastParts) -> None:
        self.events: tuple[StoredEvent, ...] = ()
        self.memory = Memory(config)
        self.past = PastState(no_items)

    @property
    def num_bytes(self) -> int:
        """What it takes."""
        return self.memory.num_bytes + self.past.num_bytes + _BYTES_PER_EVENT * len(self.events)

    def keep(self, events: tuple[StoredEvent, ...]) -> int:
        """How many of these events were read already; what else was read is forgotten.

        When all were read but others after them too, the last is left to be read again: its hidden state is gone.
        """
        known = len(self.events) if events[: len(self.events)] == self.events else common(self.events, events)
        self.memory.cut(known)
        if known == len(events) and known and self.memory.last_D is None:
            self.memory.cut(known - 1)
        self.events = events[: self.memory.length]
        return self.memory.length


def common(first: Sequence[StoredEvent], second: Sequence[StoredEvent]) -> int:
    """Number of events that both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


@dataclass(slots=True)
class Keeping:
    """How much is kept of users, how often that is checked, and what came of it; of all releases, for the metrics."""

    max_bytes: int
    verify_share: float = 0.0  # of the hits, computed from scratch too
    hits: int = 0  # requests whose user had a state
    misses: int = 0
    evictions: int = 0
    verified: int = 0
    failures: int = 0  # of those verified: the state was wrong
    max_error: float = 0.0  # of a verified score


class UserStates:
    """The states of a release, within a budget of bytes: a segmented LRU (Karedla et al. 1994).

    Who came once is forgotten first: a crawl of strangers does not push out those who come back. Not thread-safe: the
    engine's thread alone changes it.
    """

    def __init__(self) -> None:
        self._once: OrderedDict[Key, UserState] = OrderedDict()
        self._again: OrderedDict[Key, UserState] = OrderedDict()
        self._bytes: dict[Key, int] = {}
        self._again_bytes = 0
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._once) + len(self._again)

    def __contains__(self, key: Key) -> bool:
        return key in self._bytes

    def bytes_of(self, key: Key) -> int | None:
        """What a user's state takes; None without one."""
        return self._bytes.get(key)

    def take(self, key: Key) -> UserState | None:
        """A user's state; it is put back with `put`, or forgotten when reading on fails."""
        state = self._once.pop(key, None)
        again = None if state else self._again.pop(key, None)
        if state or again:
            size = self._bytes[key]
            self.num_bytes -= size
            self._again_bytes -= size if again else 0
            self._bytes[key] = 0
        else:
            self._bytes.pop(key, None)
        return state or again

    def put(self, key: Key, state: UserState, max_bytes: int) -> int:
        """Keep a state that was made or taken, and forget others beyond the budget; how many."""
        size, again = state.num_bytes, key in self._bytes
        self._bytes[key] = size
        self.num_bytes += size
        (self._again if again else self._once)[key] = state
        self._again_bytes += size if again else 0
        while self._again_bytes > _PROTECTED * max_bytes and len(self._again) > 1:
            oldest, demoted = self._again.popitem(last=False)
            self._again_bytes -= self._bytes[oldest]
            self._once[oldest] = demoted
        before = len(self)
        while self.num_bytes > max_bytes and self._bytes:
            segment = self._once or self._again
            oldest, _ = segment.popitem(last=False)
            freed = self._bytes.pop(oldest)
            self.num_bytes -= freed
            self._again_bytes -= freed if segment is self._again else 0
        return before - len(self)

    def drop(self, key: Key) -> None:
        """Forget a user."""
        if self.take(key) is not None:
            del self._bytes[key]
