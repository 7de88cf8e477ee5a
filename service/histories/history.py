"""What the service remembers of a user: the last events, and compact statistics of the whole history.

`seq` counts a user's stored events from 1 in the order they arrived. The window is a function of that order and of n, the
number of events ever stored, so that an event that arrives late does not move all others.

A server remembers millions of events and items. They hold nothing that could be part of a cycle, and are kept from the garbage
collector, which would stop all threads for as long as it takes to go through them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, Protocol

import msgspec

from twotower.data.item_statistics import add_event
from twotower.data.window import WINDOW, anchor

# Bounds on what one user may occupy; the same in every store.
KEPT_EVENTS = WINDOW
KEPT_EVENT_IDS = 4096  # idempotency reaches back this many events: four full batches
KEPT_ITEMS = 4096  # past items; the one whose last event is oldest goes first


Reason = Literal["timeout", "unreachable", "circuit_open", "full", "read_only", "denied", "damaged", "mixed_up", "refused"]


class HistoryUnavailable(Exception):
    """The store could not be asked, or did not confirm: nothing may be acknowledged."""

    def __init__(self, message: str, reason: Reason = "unreachable") -> None:
        super().__init__(message)
        self.reason: Reason = reason


class StoredEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One event as the stores keep it."""

    user_id: str
    event_type: str
    time_ms: int
    item_id: str | None = None
    event_id: str | None = None
    session_id: str | None = None
    value: float | None = None
    properties: dict[str, Any] = {}
    recommendation_id: str | None = None
    position: int | None = None


class PastItem(msgspec.Struct, frozen=True, gc=False):
    """Statistics of one item of a user's whole history (twotower.data.item_statistics) and the event types it was met through."""

    count: int
    first_ms: int
    last_ms: int
    decayed: tuple[float, float, float]
    event_types: frozenset[str]

    @staticmethod
    def after(before: "PastItem | None", event: StoredEvent) -> "PastItem":
        """The statistics once `event` has happened too."""
        if before is None:
            return PastItem(1, event.time_ms, event.time_ms, (1.0, 1.0, 1.0), shared(frozenset([event.event_type])))
        numbers = add_event(before.count, before.first_ms, before.last_ms, before.decayed, event.time_ms)
        types = before.event_types
        return PastItem(*numbers, types if event.event_type in types else shared(types | {event.event_type}))


@lru_cache(maxsize=4096)
def shared(event_types: frozenset[str]) -> frozenset[str]:
    """The same set, as one object for all items that have it."""
    return event_types


@dataclass(frozen=True, slots=True)
class UserHistory:
    """The last events of a user, oldest first by arrival; `num_events` counts all there ever were.

    `items` are in the order they were first met. `epoch` is one life of the user in the store: another one begins when the
    first event after nothing is stored. `tag` names the append that stored the last event; no two appends share one, so it tells
    a history from another of the same epoch and length, which a restored store can grow. Both are empty for an unknown user,
    and `tag` for what no store holds.
    """

    events: tuple[StoredEvent, ...] = ()
    num_events: int = 0
    items: dict[str, PastItem] = field(default_factory=dict)
    epoch: str = ""
    tag: str = ""

    @property
    def seq(self) -> int:
        """Sequence number of the last event."""
        return self.num_events

    @property
    def window(self) -> tuple[StoredEvent, ...]:
        """Events [anchor(n), n), as far as they are kept."""
        return self.events[max(len(self.events) - (self.num_events - anchor(self.num_events)), 0) :]

    def extended(self, events: Iterable[StoredEvent], tag: str = "") -> "UserHistory":
        """The history as if `events` had been stored after it, by the same arithmetic and in the same order as the stores."""
        added, items = tuple(events), dict(self.items)
        for event in added:
            if event.item_id is not None:
                items[event.item_id] = PastItem.after(items.get(event.item_id), event)
                if len(items) > KEPT_ITEMS:
                    del items[min(items, key=lambda item: (items[item].last_ms, item))]
        return UserHistory((self.events + added)[-KEPT_EVENTS:], self.num_events + len(added), items, self.epoch, tag)


class HistoryStore(Protocol):
    """Where histories live. Every method raises HistoryUnavailable when the store cannot be asked."""

    async def append(self, events: Sequence[StoredEvent]) -> list[bool]:
        """Store events of any users, in order; True where stored, False where the user's event_id was known already.

        When it returns, the events survive a crash of this process. When it raises, some may have been stored: sent again
        under the same event_ids, nothing is stored twice.
        """

    async def read(self, user_id: str, known: UserHistory | None = None) -> UserHistory:
        """All that is kept of a user; an unknown user has an empty history.

        `known` is what an earlier read returned. It saves work and never changes the answer: unchanged, the answer is `known`
        itself; grown, the events of both are the same objects; deleted, lost or restored meanwhile, all is read again.
        """

    async def delete(self, user_id: str) -> int:
        """Forget a user, event ids and statistics included; returns how many events there had been."""

    async def close(self) -> None:
        """Release connections and threads."""
