"""A cache of recent users' histories in front of a store, so that a read fetches only the events appended since.

In front of a SQLite file a read often asks the store nothing: the cache hears what this process writes, and the file tells at
once whether anyone else wrote.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from weakref import WeakValueDictionary

import msgspec

from service.histories.history import KEPT_EVENTS, Growth, HistoryStore, HistoryUnavailable, StoredEvent, UserHistory
from service.histories.sqlite_history import SqliteHistory

_MOST_GROWTHS = 64  # writes of one user that wait for the next read; after more, the store is read
# Estimated sizes of Python objects.
_EVENT_BYTES = 220  # without its texts
_ITEM_BYTES = 180
_USER_BYTES = 1000


@dataclass(frozen=True, slots=True)
class _Held:
    history: UserHistory
    num_bytes: int
    version: int | None = None  # of the store, since when it and `growths` are all that it has; None: it must be read
    growths: tuple[Growth, ...] = ()  # what this process wrote since


@dataclass(slots=True, weakref_slot=True)
class _Turn:
    """Lets reads of one user take turns. `outcome` is the result of the last read, which began at tick `began`."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    began: int = -1
    is_written: bool = False  # whether this process wrote to the user's history during the last read
    outcome: UserHistory | HistoryUnavailable = field(default_factory=UserHistory)


class RememberedHistories:
    """A HistoryStore in front of `store` that caches the most recently used histories, up to about `max_bytes`.

    `on_rollback` is called when a user's history in the store does not continue the cached one: the store lost or restored it,
    or another server deleted it. The answer is always the store's history.
    """

    def __init__(self, store: HistoryStore, max_bytes: int, on_rollback: Callable[[], None]) -> None:
        self._store, self._max_bytes, self._on_rollback = store, max_bytes, on_rollback
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._turns: WeakValueDictionary[str, _Turn] = WeakValueDictionary()
        self._ticks = count()
        self._version: Callable[[], int | None] = lambda: None
        self._last_version: int | None = None
        self.num_bytes = 0

    def follow(self, store: SqliteHistory) -> None:
        """Hear what the store writes, so that most reads need not ask it."""
        self._version, store.on_growth, store.on_change = store.version, self._grow, self._doubt

    async def append(self, events: Sequence[StoredEvent]) -> list[bool]:
        """Append to the store; the cache follows with the next read."""
        return await self._store.append(events)

    async def read(self, user_id: str, known: UserHistory | None = None) -> UserHistory:
        """The store's history. Concurrent reads of one user share one read of the store, if it begins after they were called."""
        if (history := self.known_now(user_id)) is not None:
            return _same(known, history)
        turn = self._turns.get(user_id)
        if turn is None:
            turn = self._turns[user_id] = _Turn()
        called = next(self._ticks)
        async with turn.lock:
            # A store read that began before this call may have missed an append that was acknowledged before this call.
            if turn.began < called:
                began = next(self._ticks)
                try:
                    turn.outcome = await self._read(user_id, known, turn)
                except HistoryUnavailable as error:
                    turn.outcome = error
                turn.began = began
            outcome = turn.outcome
        if isinstance(outcome, HistoryUnavailable):
            raise HistoryUnavailable(str(outcome), outcome.reason) from outcome
        return _same(known, outcome)

    async def list_users(self, after: str, prefix: str, limit: int) -> list[tuple[str, int]] | None:
        """The store's list."""
        return await self._store.list_users(after, prefix, limit)

    async def delete(self, user_id: str) -> int:
        """Delete the user from the cache and then from the store; the cached history goes even when the store fails."""
        self._forget(user_id)
        return await self._store.delete(user_id)

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()

    def known_now(self, user_id: str) -> UserHistory | None:
        """The history as it is in the store now, if that is known without a read of it."""
        held = self._held.get(user_id)
        if held is None or held.version is None or (version := self._version()) is None:
            return None
        self._last_version = version
        if version != held.version:
            return None
        history = held.history
        for growth in held.growths:
            if (grown := growth.of(history)) is None:
                return None
            history = grown
        if held.growths:
            self._forget(user_id)
            self._remember(user_id, _Held(history, _weigh(history, held), version))
        else:
            self._held.move_to_end(user_id)
        return history

    def _grow(self, growth: Growth) -> None:
        """Note what this process wrote to the history of a user."""
        self._note_writing(growth.user_id)
        if (held := self._held.get(growth.user_id)) is not None:
            is_noted = held.version is not None and len(held.growths) < _MOST_GROWTHS
            growths = (*held.growths, growth) if is_noted else ()
            self._held[growth.user_id] = replace(held, version=held.version if is_noted else None, growths=growths)

    def _doubt(self, user_id: str) -> None:
        """The next read must ask the store."""
        self._note_writing(user_id)
        if (held := self._held.get(user_id)) is not None:
            self._held[user_id] = replace(held, version=None, growths=())

    def _note_writing(self, user_id: str) -> None:
        if turn := self._turns.get(user_id):
            turn.is_written = True

    async def _read(self, user_id: str, known: UserHistory | None, turn: _Turn) -> UserHistory:
        # The version of a moment before the read: what others write from then on makes it another one. What this process writes
        # is noted in the turn until the read is over, and on what is held from then on.
        held, version, turn.is_written = self._held.get(user_id), self._version(), False
        version = self._last_version if version is None else version
        found = await self._store.read(user_id, held.history if held else known)
        version = None if turn.is_written else version
        if held and found is held.history:
            if user_id in self._held:  # otherwise it was evicted or deleted meanwhile
                self._held[user_id] = _Held(found, held.num_bytes, version)
                self._held.move_to_end(user_id)
            return found
        if held and _went_back(held.history, found):
            self._on_rollback()
        self._forget(user_id)
        if found.num_events:  # unknown users would only evict known ones
            self._remember(user_id, _Held(found, _weigh(found, held), version))
        return found

    def _remember(self, user_id: str, held: _Held) -> None:
        self._held[user_id] = held
        self.num_bytes += held.num_bytes
        while self.num_bytes > self._max_bytes:
            self._forget(next(iter(self._held)))

    def _forget(self, user_id: str) -> None:
        if held := self._held.pop(user_id, None):
            self.num_bytes -= held.num_bytes


def _same(known: UserHistory | None, found: UserHistory) -> UserHistory:
    return known if known is not None and _version(known) == _version(found) else found


def _version(history: UserHistory) -> tuple[str, int, str]:
    return history.epoch, history.num_events, history.tag


def _went_back(before: UserHistory, found: UserHistory) -> bool:
    """Whether `found` does not continue `before`: it is of another time, is shorter, or lacks events that would still be kept."""
    if _continues(before, found):
        return False
    if found.epoch != before.epoch or found.num_events < before.num_events:
        return True
    is_full = len(found.events) == KEPT_EVENTS
    expected = [e for e in before.events if not is_full or e.time_ms > found.events[0].time_ms]
    there = iter(found.events)
    return not all(event in there for event in expected)  # `in` moves the iterator on: both are in the same order


def _continues(before: UserHistory, found: UserHistory) -> bool:
    """Whether the store made `found` by extending `before`. Then both share the event objects."""
    grown = found.num_events - before.num_events
    if not before.events or not 0 <= grown < len(found.events):
        return False
    return any(event is before.events[-1] for event in found.events[-1 - grown :])


def _weigh(history: UserHistory, held: _Held | None) -> int:
    """Estimated bytes of a history. If new events only follow the cached ones, the difference is counted, to save time."""
    num_bytes, added, gone, num_items = _USER_BYTES, history.events, history.events[:0], len(history.items)
    grown = history.num_events - held.history.num_events if held else 0
    if held and _continues(held.history, history) and history.events[-1 - grown] is held.history.events[-1]:
        before = held.history
        num_bytes, added = held.num_bytes, history.events[len(history.events) - grown :]
        gone = before.events[: len(before.events) + grown - len(history.events)]
        num_items -= len(before.items)
    return num_bytes + sum(map(_event_bytes, added)) - sum(map(_event_bytes, gone)) + num_items * _ITEM_BYTES


def _event_bytes(event: StoredEvent) -> int:
    return _EVENT_BYTES + 2 * len(msgspec.msgpack.encode(event))
