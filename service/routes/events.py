"""The route POST /v1/events, which stores events."""

import msgspec

from service.api import schemas
from service.api.codec import encode
from service.api.errors import ApiError
from service.api.parts import decode_parts
from service.histories.intake import validate_events
from service.http.route_table import Route
from service.routes.context import Context, now_ms

_events = msgspec.json.Decoder(schemas.EventsBody)


class EventRoutes:
    """Handler of POST /v1/events."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def routes(self) -> tuple[Route, ...]:
        """The route with its handler."""
        return (
            Route(
                "POST",
                ("/v1/events", "/events"),
                takes=schemas.EventsRequest,
                gives=schemas.EventsResponse,
                status=202,
                scope="events:write",
                takes_beacons=True,
                decode=decode_events,
                hot=self.append,
            ),
        )

    async def append(self, body: schemas.EventsBody) -> bytes:
        """POST /v1/events: every event that the answer counts as accepted is stored; ApiError when every one is rejected."""
        histories, metrics = self._context.histories, self._context.metrics
        good, rejected = validate_events(body.events, now_ms())
        stored = await histories.confirmed("append", histories.store.append(good)) if good else []
        accepted = sum(stored)
        outcomes = {"accepted": accepted, "duplicate": len(stored) - accepted, "rejected": len(rejected)}
        for outcome, count in outcomes.items():
            if count:
                metrics.events.labels(outcome).inc(count)
        if rejected and len(rejected) == len(body.events):
            raise all_rejected(rejected)
        return encode(schemas.EventsResponse(accepted=accepted, duplicates=outcomes["duplicate"], rejected=rejected))


def all_rejected(rejected: list[schemas.Rejected]) -> ApiError:
    """The error for events of which none can be stored: clients that look at the status only must notice."""
    error = ApiError("invalid_request", f"all {len(rejected)} events were rejected; the first: {rejected[0].reason}", "events")
    error.rejected = rejected
    return error


def decode_events(body: bytes) -> schemas.EventsBody:
    """The events in a body, each still undecoded; ApiError for a body without a list of events."""
    return decode_parts(body, _events, "events")
