"""Events on their way in: checked one by one, and made what the stores keep."""

import msgspec

from service.api import schemas
from service.api.codec import decode
from service.api.errors import ApiError
from service.api.schemas import AboutUser, Event
from service.histories.history import StoredEvent, UserHistory

CLOCK_SKEW_MS = 86_400_000  # a stored event may lie a day ahead of us: clients' clocks and time zones are what they are


_event = msgspec.json.Decoder(schemas.Event)


def judge(raw_events: list[msgspec.Raw], now_ms: int) -> tuple[list[StoredEvent], list[schemas.Rejected]]:
    """The events that may be stored, and why the others may not."""
    good: list[StoredEvent] = []
    rejected: list[schemas.Rejected] = []
    for index, raw in enumerate(raw_events):
        try:
            event = decode(raw, _event)
            if event.user_id is None:
                raise ApiError("invalid_request", "Object missing required field `user_id`", "user_id")
            schemas.check_texts(event)
            if event.time_ms > now_ms + CLOCK_SKEW_MS:
                raise ApiError("invalid_request", "timestamp: lies more than a day in the future", "timestamp")
        except ValueError as error:
            rejected.append(schemas.Rejected(index=index, reason=str(error)))
        except ApiError as error:
            where = f" (field {error.field})" if error.field else ""
            rejected.append(schemas.Rejected(index=index, reason=error.message + where))
        else:
            # Within a day ahead it is a clock that is wrong, not an event to come: nothing stored lies in our future.
            stored = to_stored(event, event.user_id)
            good.append(stored if stored.time_ms <= now_ms else msgspec.structs.replace(stored, time_ms=now_ms))
    return good, rejected


def merge_inline(stored: UserHistory, asked: AboutUser) -> UserHistory:
    """The history the request speaks of: inline events count as if they had just been stored, but are not."""
    before = UserHistory() if asked.history_mode == "replace" else stored
    return before.extended(to_stored(e, asked.user_id or "") for e in asked.events) if asked.events else before


def to_stored(event: Event, user_id: str) -> StoredEvent:
    """An event as the stores keep it."""
    return StoredEvent(
        user_id=user_id,
        event_type=event.event_type,
        time_ms=event.time_ms,
        item_id=event.item_id,
        event_id=event.event_id,
        session_id=event.session_id,
        value=event.value,
        properties=event.properties,
        recommendation_id=event.recommendation_id,
        position=event.position,
    )
