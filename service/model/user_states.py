"""The cache of user states: what the model has computed for recent users, so that the next request reads only new events.

A state is never trusted. Its events are compared with those of the request one by one, and events after the first difference
are read again. A state outlives its release: the next release of the same bundle takes it over, and reads again what follows the
first event whose item has another vector now. What depends on popularity is computed anew.

L: events, M: past items, V: vector width
"""

import sqlite3
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from time import monotonic
from typing import Protocol
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from service.histories.history import PastItem, StoredEvent
from service.model.incremental import ArrayMemory, PastParts
from service.model.state_file import State, StateFile
from twotower.data.features import Ints
from twotower.data.item_statistics import ItemStatistics
from twotower.errors import EnvironmentProblem

UserKey = tuple[str, str]  # "user" or "session", and its id

_BYTES_PER_ITEM = 200  # about what the entries of dictionaries take
_BYTES_PER_EVENT = 300  # of an event that only this state holds, such as an inline event of a session
SAVE_S = 5.0  # at the end, states are written to the file for at most so long
NO_RELEASE = -1  # of a state that comes from the file
_PROTECTED = 0.8  # share of the budget that users with more than one request may fill, in all releases together


class Memory(Protocol):
    """What a reader keeps of the events that it has read of one history."""

    @property
    def length(self) -> int:
        """Number of events that need not be read again. It may fall between two requests."""

    @property
    def num_bytes(self) -> int:
        """Bytes that count for the budget of the `UserCache`."""

    @property
    def knows_last(self) -> bool:
        """Whether the hidden state after the last event is kept; if not, the last event is read again for a query."""

    def cut(self, length: int) -> None:
        """Forget all events after the first `length`, and maybe some before."""

    def copy(self) -> "Memory":
        """A memory of the same events, or of the first of them, that can read on without changing this one."""


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


@dataclass(slots=True)
class CacheCounters:
    """Counts of the cache of user states, over all releases of a process since its start."""

    hits: int = 0  # requests whose user had a state
    misses: int = 0  # requests whose user had none
    restored: int = 0  # requests whose user had none in memory but one in the file of user states
    unreadable: int = 0  # states in that file that were damaged, of another bundle or machine, or could not be written
    carried: int = 0  # hits whose state was of an earlier release
    carried_in_part: int = 0  # those of which some events had to be read again, because items have other vectors now
    evictions: int = 0  # states that were removed because the budget was used up
    verified: int = 0  # states that were compared with a recomputation
    failures: int = 0  # verified states that were wrong
    max_error: float = 0.0  # the largest difference found in verified states that were not wrong
    out_of_memory: int = 0  # batches for which the device had too little memory
    num_bytes: int = 0  # bytes of all states now


class UserStates:
    """The states of one release: a segmented LRU (Karedla et al. 1994) within the budget of a `UserCache`.

    Users with one request are evicted before users with several, so that many one-time visitors do not evict regular users.
    Not thread-safe: only the engine's thread changes it.
    """

    def __init__(self, bundle_id: str = "") -> None:
        self.bundle_id = bundle_id  # of the release
        self._once: OrderedDict[UserKey, UserState] = OrderedDict()
        self._again: OrderedDict[UserKey, UserState] = OrderedDict()
        self._bytes: dict[UserKey, int] = {}
        self._used: dict[UserKey, int] = {}  # the tick of the cache at which each state was put last
        self.again_bytes = 0
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._once) + len(self._again)

    def __contains__(self, key: UserKey) -> bool:
        return key in self._bytes

    def bytes_of(self, key: UserKey) -> int | None:
        """Bytes of a user's state; None if there is none."""
        return self._bytes.get(key)

    def take(self, key: UserKey) -> UserState | None:
        """Take a user's state out; None if there is none. `UserCache.put` puts it back, unless computing fails meanwhile."""
        state = self._once.pop(key, None)
        again = None if state else self._again.pop(key, None)
        if state or again:
            size = self._bytes[key]
            self.num_bytes -= size
            self.again_bytes -= size if again else 0
            self._bytes[key] = 0
        else:
            self._bytes.pop(key, None)
            self._used.pop(key, None)
        return state or again

    def add(self, key: UserKey, state: UserState, tick: int) -> None:
        """Store a new state, or one that was taken."""
        size, again = state.num_bytes, key in self._bytes
        self._bytes[key], self._used[key] = size, tick
        self.num_bytes += size
        (self._again if again else self._once)[key] = state
        self.again_bytes += size if again else 0

    @property
    def num_again(self) -> int:
        """Number of states of users with several requests."""
        return len(self._again)

    def next_to_demote(self) -> int:
        """The tick of the state to demote next. There must be one of a user with several requests."""
        return self._used[next(iter(self._again))]

    def demote_one(self) -> None:
        """Count the least recently used state of a user with several requests as one of a user with one request."""
        oldest, demoted = self._again.popitem(last=False)
        self.again_bytes -= self._bytes[oldest]
        self._once[oldest] = demoted

    def next_to_go(self) -> tuple[bool, int]:
        """Whether the state to evict next is of a user with several requests, and its tick. There must be a state."""
        segment = self._once or self._again
        return segment is self._again, self._used[next(iter(segment))]

    def oldest_last(self) -> Iterator[tuple[UserKey, UserState]]:
        """All states, in the reverse order of their eviction."""
        for segment in (self._again, self._once):
            yield from reversed(segment.items())

    def forget_one(self) -> tuple[UserKey, UserState]:
        """Evict the least recently used state, first among users with one request, and return it."""
        segment = self._once or self._again
        oldest, state = segment.popitem(last=False)
        freed = self._bytes.pop(oldest)
        del self._used[oldest]
        self.num_bytes -= freed
        self.again_bytes -= freed if segment is self._again else 0
        return oldest, state

    def inherit(self, before: "UserStates") -> None:
        """Take over the states of a release that answers no more. Of users whom both know, this release's states stay."""
        mine = [*self._once.items(), *self._again.items()]
        used = self._used
        self._once, self._again, self._bytes, self._used = before._once, before._again, before._bytes, before._used
        self.num_bytes, self.again_bytes = before.num_bytes, before.again_bytes
        UserStates.__init__(before, before.bundle_id)
        for key, state in mine:
            self.take(key)
            self.add(key, state, used[key])

    def drop(self, key: UserKey) -> None:
        """Forget a user's state, if there is one."""
        if self.take(key) is not None:
            del self._bytes[key]
        self._used.pop(key, None)


class UserCache:
    """The budget that the user states of all releases of a process share, and its counters. Used by the engine's thread."""

    def __init__(self, max_bytes: int, verify_share: float = 0.0) -> None:
        self.max_bytes = max_bytes
        self.verify_share = verify_share  # share of the hits that are recomputed and compared
        self.counters = CacheCounters()
        self.file: StateFile | None = None  # for states that memory has no room for
        self._releases: WeakSet[UserStates] = WeakSet()  # weak, so that states are freed with their release
        self._ticks = count()

    @property
    def num_bytes(self) -> int:
        """Bytes of all states of all releases that are in memory."""
        return sum(states.num_bytes for states in self._releases)

    def put(self, states: UserStates, key: UserKey, state: UserState) -> None:
        """Store a new state, or one that was taken, and evict the oldest states of any release beyond the budget."""
        self._releases.add(states)
        states.add(key, state, next(self._ticks))
        self._demote()
        while self.num_bytes > self.max_bytes and (filled := [each for each in self._releases if len(each)]):
            going = min(filled, key=UserStates.next_to_go)
            key, state = going.forget_one()
            self.counters.evictions += 1
            if self.file and (kept := state.in_file):
                self.file.keep(key, kept, going.bundle_id)
        self.counters.num_bytes = self.num_bytes

    def open_file(self, directory: Path, max_bytes: int) -> None:
        """Keep states in a file too. EnvironmentProblem when none can be made there."""
        try:
            self.file = StateFile(directory, max_bytes, self._count_unreadable)
        except (OSError, sqlite3.Error) as error:
            raise EnvironmentProblem(
                f"cannot keep user states in {directory}: {error}. Choose a directory that can be written to."
            ) from error

    def close(self, seconds: float = SAVE_S) -> None:
        """Write all states to the file, those used last first, as far as it can be done in so many seconds."""
        if self.file is None:
            return
        until = monotonic() + seconds
        for states in list(self._releases):
            for key, state in states.oldest_last():
                if (kept := state.in_file) and not self.file.keep(key, kept, states.bundle_id, max(until - monotonic(), 0)):
                    break
        self.file.close()

    def _count_unreadable(self) -> None:
        self.counters.unreadable += 1

    def hand_over(self, heir: UserStates, before: UserStates) -> None:
        """Give the states of a release that answers no more to the one that follows it."""
        heir.inherit(before)
        self._releases.add(heir)

    def _demote(self) -> None:
        """Bound the states of users with several requests. Otherwise several releases could fill the budget with them alone.

        Then no further user would ever have two requests before being evicted.
        """
        while sum(each.again_bytes for each in self._releases) > _PROTECTED * self.max_bytes:
            protecting = [each for each in self._releases if each.num_again]
            if sum(each.num_again for each in protecting) == 1:
                break
            min(protecting, key=UserStates.next_to_demote).demote_one()


def forget_users(states: UserStates, keys: Sequence[UserKey], cache: UserCache) -> list[None]:
    """Drop the states of these users; the results are only there to be counted. Must run on the engine's thread."""
    for key in keys:
        states.drop(key)
        if cache.file:
            cache.file.forget(key)
    return [None] * len(keys)
