"""The cache of user states: what the model has computed for recent users, so that the next request reads only new events.

A state is never trusted. Its events are compared with those of the request one by one, and events after the first difference
are read again. A state outlives its release: the next release of the same bundle takes it over, and reads again what follows the
first event whose item has another vector now. What depends on popularity is computed anew.
"""

import sqlite3
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import monotonic
from weakref import WeakSet

from service.states.memory import UserKey
from service.states.state_file import StateFile
from service.states.user_state import UserState
from twotower.errors import EnvironmentProblem

SAVE_S = 5.0  # at the end, states are written to the file for at most so long
_PROTECTED = 0.8  # share of the budget that users with more than one request may fill, in all releases together


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

    def __init__(self, space: str = "") -> None:
        self.space = space  # what states must have in common to replace one another
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

    def newest_first(self) -> Iterator[tuple[UserKey, UserState]]:
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
        UserStates.__init__(before, before.space)
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
            evicted, its_state = going.forget_one()
            self.counters.evictions += 1
            if self.file and (kept := its_state.in_file):
                self.file.keep(evicted, kept, going.space)
        self.counters.num_bytes = self.num_bytes

    def forget(self, key: UserKey) -> None:
        """Drop the state of a user in every release, those included that other catalogues or a rollback keep in memory."""
        for states in self._releases:
            states.drop(key)
        if self.file:
            self.file.forget(key)

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
            for key, state in states.newest_first():
                if (kept := state.in_file) and not self.file.keep(key, kept, states.space, max(until - monotonic(), 0)):
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
    """Drop the states of these users in every release; the results are only there to be counted. For the engine's thread."""
    for key in keys:
        states.drop(key)
        cache.forget(key)
    return [None] * len(keys)
