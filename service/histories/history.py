"""What the service stores about a user: the last events, and compact statistics of the whole history.

A history is in the order of time; events of one moment stay in the order of their arrival. `seq` numbers a user's stored events
from 1 in the order of arrival. Of all events ever stored, the latest by time are kept. So the window, which depends only on these
and on n, the number of events ever stored, is the same in whichever order the events arrived.

A server holds millions of events and items in memory. Their types opt out of garbage collection (`gc=False`), because the
collector would stop all threads while it goes through them. This is safe because they cannot be part of a reference cycle.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from operator import attrgetter
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from twotower.data.item_statistics import add_event
from twotower.data.window import WINDOW, anchor

# Bounds on what is stored of one user; the same in every store.
KEPT_EVENTS = WINDOW
KEPT_EVENT_IDS = 4096  # a repeated event_id is recognised among this many last events: four full requests
KEPT_ITEMS = 4096  # past items; beyond that, the item whose last event is oldest is forgotten first


FailureReason = Literal["timeout", "unreachable", "circuit_open", "full", "read_only", "denied", "damaged", "mixed_up", "refused"]


class HistoryUnavailable(Exception):
    """The store could not be reached, or did not confirm a write: a caller must not be told that its events are stored."""

    def __init__(self, message: str, reason: FailureReason = "unreachable") -> None:
        super().__init__(message)
        self.reason: FailureReason = reason


class StoredEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One event as the stores keep it. A search has a query and no item."""

    user_id: str
    event_type: str
    time_ms: int
    item_id: str | None = None
    query: str | None = None
    event_id: str | None = None
    session_id: str | None = None
    value: float | None = None
    properties: dict[str, Any] = {}
    recommendation_id: str | None = None
    position: int | None = None


class PastItem(msgspec.Struct, frozen=True, gc=False):
    """Statistics of one past item over the user's whole history (twotower.data.item_statistics), and its event types."""

    count: int
    first_ms: int
    last_ms: int
    decayed: tuple[float, float, float]
    event_types: frozenset[str]

    @staticmethod
    def after(before: "PastItem | None", event: StoredEvent) -> "PastItem":
        """The statistics with `event` added to those `before`, which are None for the item's first event."""
        if before is None:
            return PastItem(1, event.time_ms, event.time_ms, (1.0, 1.0, 1.0), shared(frozenset([event.event_type])))
        numbers = add_event(before.count, before.first_ms, before.last_ms, before.decayed, event.time_ms)
        types = before.event_types
        return PastItem(*numbers, types if event.event_type in types else shared(types | {event.event_type}))


_time_ms = attrgetter("time_ms")


def in_time_order(events: tuple[StoredEvent, ...], first_new: int = 0) -> tuple[StoredEvent, ...]:
    """Events in the order of time, given in the order of arrival; those before `first_new` are in the order of time already."""
    if all(a.time_ms <= b.time_ms for a, b in pairwise(events[max(first_new - 1, 0) :])):
        return events
    return tuple(sorted(events, key=_time_ms))  # a stable sort: events of one moment keep their order


@lru_cache(maxsize=4096)
def shared(event_types: frozenset[str]) -> frozenset[str]:
    """An equal set; all items with equal sets share one object, which saves memory."""
    return event_types


@dataclass(frozen=True, slots=True)
class UserHistory:
    """The last events of a user in the order of time, oldest first; `num_events` counts all events ever stored.

    `items` are the past items, in the order in which they arrived first.

    `epoch` changes when a deleted user is stored again: it names the time from the first stored event to the deletion.
    `tag` names the append that stored the event that arrived last, and every append has a tag of its own. So the tag tells apart
    two histories of the same epoch and length. These can exist when a store was restored from a backup and then received other
    events.
    Both are empty for an unknown user. `tag` is also empty for a history that no store holds.
    """

    events: tuple[StoredEvent, ...] = ()
    num_events: int = 0
    items: dict[str, PastItem] = field(default_factory=dict)
    epoch: str = ""
    tag: str = ""

    @property
    def seq(self) -> int:
        """Sequence number of the event that arrived last; 0 for an unknown user."""
        return self.num_events

    @property
    def window(self) -> tuple[StoredEvent, ...]:
        """Events [anchor(n), n), those of them that are still stored."""
        return self.events[max(len(self.events) - (self.num_events - anchor(self.num_events)), 0) :]

    def extended(self, events: Iterable[StoredEvent], tag: str = "") -> "UserHistory":
        """The history as if `events` had been stored after it, computed exactly as the stores do."""
        added, items = tuple(events), dict(self.items)
        for event in added:
            if event.item_id is not None:
                items[event.item_id] = PastItem.after(items.get(event.item_id), event)
                if len(items) > KEPT_ITEMS:
                    del items[min(items, key=lambda item: (items[item].last_ms, item))]
        events = in_time_order(self.events + added, len(self.events))[-KEPT_EVENTS:]
        return UserHistory(events, self.num_events + len(added), items, self.epoch, tag)


class Growth(NamedTuple):
    """What one write of a store added to the history of a user, who had `num_before` events of `epoch` then."""

    user_id: str
    epoch: str
    num_before: int
    events: tuple[StoredEvent, ...]
    tag: str

    def of(self, before: UserHistory) -> UserHistory | None:
        """The history after the write; None if it did not follow this history."""
        follows = (before.epoch, before.num_events) == (self.epoch, self.num_before)
        return before.extended(self.events, self.tag) if follows else None


class HistoryStore(Protocol):
    """Stores histories. Every method raises HistoryUnavailable when the store cannot be reached."""

    async def append(self, events: Sequence[StoredEvent]) -> list[bool]:
        """Store events of any users, in order. True for an event that was stored, False for one whose event_id was known.

        When this returns, the events survive a crash of this process. When this raises, some events may have been stored. They
        can be sent again: events with the same event_ids are not stored twice.
        """

    async def read(self, user_id: str, known: UserHistory | None = None) -> UserHistory:
        """All that is stored about a user; an unknown user has an empty history.

        `known` is the result of an earlier read. It saves work and never changes the answer. If the history is unchanged, the
        answer is `known` itself. If it has grown, both share the event objects. If it was deleted, lost or restored meanwhile,
        everything is read again.
        """

    async def list_users(self, after: str, prefix: str, limit: int) -> list[tuple[str, int]] | None:
        """Up to `limit` users whose id comes after `after` and begins with `prefix`, by id, with the number of their events.

        None when the store cannot list its users without reading all that it holds.
        """

    async def delete(self, user_id: str) -> int:
        """Delete a user with event ids and statistics; returns how many events were ever stored."""

    async def close(self) -> None:
        """Release connections and threads."""
