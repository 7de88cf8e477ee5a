"""Histories as the client sends them, made into events of ours."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import xxhash

from service.api.errors import ApiError
from service.api.schemas import MAX_EVENTS, Event, milliseconds
from service.behaviorgpt.bodies import HistoryEvent, RankingBody
from service.histories.history import StoredEvent
from service.histories.intake import to_stored
from twotower.data.schema import Constant, EventColumns
from twotower.data.words import tokens
from twotower.tables.times import EARLIEST_MS, LATEST_MS

QUERY_CHARACTERS = 256
_DEFAULTS = {"viewItem": "view", "addToCart": "add_to_cart", "removeFromCart": "", "order": "purchase", "search": "search"}
Qualify = Callable[[str | None, str], str]  # the catalogue that an event names, and the item: our id of the item


@dataclass(frozen=True, slots=True)
class EventTypes:
    """Our event type for each type of the client; empty for a type whose events are left out."""

    by_kind: Mapping[str, str]

    @staticmethod
    def of(setting: str | None, columns: EventColumns) -> "EventTypes":
        """The types that a setting such as `viewItem=click,order=purchase` names, others by default; ValueError for a bad one.

        A schema whose events are all of one type has that type for every event with an item.
        """
        named = dict(_DEFAULTS)
        if isinstance(columns.event_type, Constant):
            named |= {kind: columns.event_type.constant for kind in named if kind != "search" and named[kind]}
        for part in filter(None, map(str.strip, (setting or "").split(","))):
            kind, mark, ours = (word.strip() for word in part.partition("="))
            if kind not in named or not mark:
                raise ValueError(f"{part!r} names none of {', '.join(named)}: write for example viewItem=view,order=purchase")
            named[kind] = ours
        return EventTypes(named)

    @property
    def view(self) -> str | None:
        """The type of a view; None if views are left out."""
        return self.by_kind["viewItem"] or None

    @property
    def order(self) -> str | None:
        """The type of a purchase; None if purchases are left out."""
        return self.by_kind["order"] or None


def events_of(body: RankingBody, types: EventTypes, columns: EventColumns, qualify: Qualify, now_ms: int) -> list[Event]:
    """The events of a ranking's history, a trailing search included; ApiError for too many or for one that says nothing.

    An order becomes an event for each of its items. The client's times may lie ahead of our clock: then all are moved back by
    the same time, so that the last event is not in the future.
    """
    events = list(_expanded(body.history, types, columns, qualify, now_ms))
    if body.query is not None and (query := query_of(body.query)) and types.by_kind["search"]:
        last_ms = max((event.time_ms for event in events), default=now_ms)
        more = _properties(body.domains, columns)
        events.append(_search(types.by_kind["search"], max(last_ms, now_ms), query, None, more))
    events = without_early_searches(events, body.max_trailing_searches)
    if len(events) > MAX_EVENTS:
        raise ApiError("bad_request", f"history: it has {len(events)} events, at most {MAX_EVENTS} are read", "history")
    ahead_ms = max((event.time_ms for event in events), default=now_ms) - now_ms
    if ahead_ms <= 0 or body.timestamp is not None:
        return events
    return [msgspec.structs.replace(event, timestamp=event.time_ms - ahead_ms) for event in events]


def _expanded(
    history: Iterable[HistoryEvent], types: EventTypes, columns: EventColumns, qualify: Qualify, now_ms: int
) -> Iterator[Event]:
    """The events of a history, without those of types that are left out."""
    for place, sent in enumerate(history):
        what, kind = sent.event, types.by_kind[sent.event.type]
        time_ms = now_ms if sent.timestamp is None else milliseconds(sent.timestamp)
        if not EARLIEST_MS <= time_ms <= LATEST_MS:
            raise ApiError("bad_request", f"history[{place}]: its timestamp is outside 1980 to 2100", "history")
        session_id, more = (sent.session_id or "")[:64] or None, _properties(sent.domains, columns)
        if what.type == "search":
            if kind and (query := query_of(what.query or "")):
                yield _search(kind, time_ms, query, session_id, more)
            continue
        for item, quantity in _items(place, sent):
            if kind:
                extra = {"quantity": quantity} if "quantity" in columns.features and what.type == "order" else {}
                yield Event(
                    event_type=kind,
                    timestamp=time_ms,
                    item_id=qualify(sent.store_id, item),
                    session_id=session_id,
                    properties=more | extra,
                )


def _items(place: int, sent: HistoryEvent) -> list[tuple[str, float]]:
    """The items of an event, with their quantities; ApiError when it has none."""
    if sent.event.type == "order":
        return [(item.product, item.quantity) for item in sent.event.items or ()]
    if sent.event.product is None:
        raise ApiError("bad_request", f"history[{place}]: an event of the type {sent.event.type} needs a product", "history")
    return [(sent.event.product, 1)]


def _search(kind: str, time_ms: int, query: str, session_id: str | None, properties: dict[str, Any]) -> Event:
    return Event(event_type=kind, timestamp=time_ms, query=query, session_id=session_id, properties=properties)


def query_of(text: str) -> str:
    """The query that the model reads: the first 256 characters; empty for a text without a letter or digit."""
    query = text.strip()[:QUERY_CHARACTERS].strip()
    return query if tokens(query) else ""


def without_early_searches(events: Sequence[Event], most: int) -> list[Event]:
    """The events, with at most so many of the searches in a row at their end."""
    num_searches = next((n for n, event in enumerate(reversed(events)) if event.item_id is not None), len(events))
    cut = max(num_searches - most, 0)
    first = len(events) - num_searches
    return [*events[:first], *events[first + cut :]]


def _properties(domains: Mapping[str, str], columns: EventColumns) -> dict[str, Any]:
    """Those of the client's domains that are event features of the schema, and known."""
    return {name: value for name, value in domains.items() if value != "unk" and name in columns.features}


def num_known(stored: Sequence[StoredEvent], sent: Sequence[Event]) -> int:
    """How many events at the beginning of `sent` are the last ones stored.

    The client sends the whole history in every call, with new times. What was stored by a call before must count once.
    """
    before, now = [_what(event) for event in stored], [_what(event) for event in sent]
    return next((n for n in range(min(len(before), len(now)), 0, -1) if before[-n:] == now[:n]), 0)


def _what(event: StoredEvent | Event) -> tuple[str, str | None, str | None]:
    return event.event_type, event.item_id, event.query


def stored_form(user_id: str, body: RankingBody, sent: Sequence[Event], first: int) -> list[StoredEvent]:
    """The events from place `first` on, as they are stored. Their ids follow from the request: sent again, it stores nothing."""
    told = [(str(event.timestamp), event.session_id) for event in body.history], [_what(event) for event in sent]
    request = xxhash.xxh3_128_hexdigest(repr((user_id, told)).encode())
    return [
        msgspec.structs.replace(to_stored(event, user_id), event_id=f"behaviorgpt-{request}-{place}")
        for place, event in enumerate(sent)
        if place >= first
    ]
