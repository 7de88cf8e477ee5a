"""Incoming events: each is checked on its own and converted to the type that the stores keep."""

import msgspec

from service.api import schemas
from service.api.codec import decode
from service.api.errors import ApiError
from service.api.schemas import AboutUser, Event
from service.histories.as_of import AsOf, as_of
from service.histories.history import StoredEvent, UserHistory

CLOCK_SKEW_MS = 86_400_000  # an event may lie a day in the future, because clients' clocks and time zones may be wrong


_event = msgspec.json.Decoder(schemas.Event)


def validate_events(raw_events: list[msgspec.Raw], now_ms: int) -> tuple[list[StoredEvent], list[schemas.Rejected]]:
    """The events that may be stored, and the reasons why the others are rejected."""
    good: list[StoredEvent] = []
    rejected: list[schemas.Rejected] = []
    for index, raw in enumerate(raw_events):
        try:
            event = decode(raw, _event)
            if event.user_id is None:
                raise ApiError("invalid_request", "Object missing required field `user_id`", "user_id")
            schemas.check_event(event)
            if event.time_ms > now_ms + CLOCK_SKEW_MS:
                raise ApiError("invalid_request", "timestamp: it is more than a day in the future", "timestamp")
        except ValueError as error:
            rejected.append(schemas.Rejected(index=index, reason=str(error)))
        except ApiError as error:
            where = f" (field {error.field})" if error.field else ""
            rejected.append(schemas.Rejected(index=index, reason=error.message + where))
        else:
            # A time less than a day ahead means a wrong clock. Such an event gets our time: no stored event is in the future.
            stored = to_stored(event, event.user_id)
            good.append(stored if stored.time_ms <= now_ms else msgspec.structs.replace(stored, time_ms=now_ms))
    return good, rejected


def merge_inline(stored: UserHistory, request: AboutUser) -> AsOf:
    """The history that a request is about: its inline events count as if they had just been stored, but are not stored.

    With a `timestamp`, only events strictly before it count, stored and inline ones.
    """
    before = AsOf(UserHistory() if request.history_mode == "replace" else stored, True)
    events = [to_stored(event, request.user_id or "") for event in request.events]
    if request.timestamp is not None:
        moment_ms = schemas.to_ms(request.timestamp)
        before, events = as_of(before.history, moment_ms), [event for event in events if event.time_ms < moment_ms]
    return AsOf(before.history.extended(events), before.is_exact) if events else before


def to_stored(event: Event, user_id: str) -> StoredEvent:
    """The event of a request in the type that the stores keep."""
    return StoredEvent(
        user_id=user_id,
        event_type=event.event_type,
        time_ms=event.time_ms,
        item_id=event.item_id,
        query=event.query,
        event_id=event.event_id,
        session_id=event.session_id,
        value=event.value,
        properties=event.properties,
        recommendation_id=event.recommendation_id,
        position=event.position,
    )
