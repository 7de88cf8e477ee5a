"""Requests and responses: the types the server decodes with are the types its OpenAPI document is made from.

Unknown fields are refused: a misspelt `exclude_sen` must not silently change an answer.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from twotower.events import EARLIEST_MS, LATEST_MS, MAX_ID_BYTES

EARLIEST = datetime.fromtimestamp(EARLIEST_MS / 1000, UTC)
LATEST = datetime.fromtimestamp(LATEST_MS / 1000, UTC)
MAX_RESULTS = 500
MAX_EVENTS = 1024
MAX_LISTED_IDS = 10_000
MAX_CHANGES = 1000
MAX_FILTER_CHARACTERS = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_EXACT = 2**53  # larger integers do not survive JSON clients that read doubles


def milliseconds(moment: datetime) -> int:
    """Epoch milliseconds, exact."""
    return (moment - _EPOCH) // _MILLISECOND


Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_BYTES, description="Any text of 1 to 128 UTF-8 bytes without NUL")]
Ids = Annotated[list[Id], Meta(max_length=MAX_LISTED_IDS)]
EpochMs = Annotated[int, Meta(ge=milliseconds(EARLIEST), le=milliseconds(LATEST), description="Epoch milliseconds")]
Timestamp = Annotated[datetime, Meta(tz=True, description="RFC 3339")] | EpochMs
Text = Annotated[str, Meta(max_length=4096)]
Whole = Annotated[int, Meta(ge=-_EXACT, le=_EXACT)]
Property = Annotated[str, Meta(max_length=1024)] | Whole | float | bool | None
Properties = Annotated[dict[Annotated[str, Meta(max_length=128)], Property], Meta(max_length=64)]
Feature = Text | Whole | float | bool | Annotated[list[Text | Whole | float | None], Meta(max_length=4096)] | None
NumResults = Annotated[int, Meta(ge=1, le=MAX_RESULTS)]
FilterText = Annotated[
    str, Meta(max_length=MAX_FILTER_CHARACTERS, description="For example: price < 5 and department in ('tea', 'coffee')")
]
HistoryMode = Literal["append", "replace", "stored"]


def to_ms(timestamp: datetime | int) -> int:
    """A Timestamp in epoch milliseconds."""
    return timestamp if isinstance(timestamp, int) else milliseconds(timestamp)


def check_id(value: str) -> None:
    """ValueError for an id that is empty, too long in bytes, or holds NUL, which C tools would cut it at."""
    if not value or len(value.encode()) > MAX_ID_BYTES:
        raise ValueError(f"an id has 1 to {MAX_ID_BYTES} UTF-8 bytes")
    if "\0" in value:
        raise ValueError("an id must not hold a NUL character")


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every request body checks once its types are right; a ValueError here starts with the field's name."""

    def __post_init__(self) -> None:
        check_texts(self)


class _Named(NamedTuple):
    """The fields of a type that its types alone do not check."""

    ids: tuple[str, ...]
    id_lists: tuple[str, ...]
    moments: tuple[str, ...]


@cache
def _named(kind: type[msgspec.Struct]) -> _Named:
    names = kind.__struct_fields__
    return _Named(
        tuple(n for n in names if n.endswith(("_id", "_type"))),
        tuple(n for n in names if n.endswith(("_ids", "_types"))),
        tuple(n for n in names if n.endswith("timestamp")),
    )


def check_texts(value: msgspec.Struct) -> None:
    """ValueError that starts with the name of the field whose id or moment cannot be used."""
    named = _named(type(value))
    for name in named.ids:
        _check_ids(name, (getattr(value, name),))
    for name in named.id_lists:
        _check_ids(name, getattr(value, name) or ())
    for name in named.moments:
        if not _is_plausible(getattr(value, name)):
            raise ValueError(f"{name}: lies outside 1980 to 2100")


def _check_ids(name: str, ids: Sequence[str | None]) -> None:
    for one in ids:
        if one is not None:
            try:
                check_id(one)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None


def _is_plausible(moment: "datetime | int | None") -> bool:
    return not isinstance(moment, datetime) or EARLIEST <= moment <= LATEST  # a number is checked by its type


# Checked by whoever decodes it (`check_texts`), not when made: a call for each of fifty events would be a request's largest cost.
# Nothing in it can refer back to it, so that the garbage collector need not look.
class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Something a user did. `properties` may hold the event features that the schema names."""

    event_type: Id
    timestamp: Timestamp
    user_id: Id | None = None  # required by /events; inline events belong to the request's user
    item_id: Id | None = None
    event_id: Id | None = None
    session_id: Id | None = None
    value: float | None = None
    properties: Properties = {}
    recommendation_id: Id | None = None
    position: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None

    @property
    def time_ms(self) -> int:
        """When it happened."""
        return to_ms(self.timestamp)


class RecommendRequest(_Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What comes next for a user, known by stored history, inline events or both."""

    user_id: Id | None = None
    session_id: Id | None = None  # carried for the caller's own bookkeeping: it does not change the answer
    events: Annotated[list[Event], Meta(max_length=MAX_EVENTS)] = []
    history_mode: HistoryMode = "append"  # inline events: after the stored ones, instead of them, or none
    num_results: NumResults = 10
    target_event_type: Id | None = None
    timestamp: Timestamp | None = None
    filter: FilterText | None = None
    exclude_item_ids: Ids = []
    exclude_seen: bool = False
    exclude_event_types: Annotated[list[Id], Meta(max_length=64)] = []
    candidate_item_ids: Ids | None = None
    include_metadata: Annotated[list[Text], Meta(max_length=64)] = []
    validate_only: bool = False
    timeout_ms: Annotated[int, Meta(ge=1, le=60_000)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for index, event in enumerate(self.events):
            try:
                check_texts(event)
            except ValueError as error:
                raise ValueError(f"events[{index}].{error}") from None
        self.check_meaning()

    def check_meaning(self) -> None:
        """ValueError for fields that contradict each other."""
        if self.events and self.history_mode == "stored":
            raise ValueError("history_mode: `stored` reads no inline events; leave `events` out or choose append or replace")
        for index, event in enumerate(self.events):
            if event.user_id is not None and event.user_id != self.user_id:
                raise ValueError(f"events[{index}].user_id: inline events belong to the request's user_id")


class PlainRecommendRequest(RecommendRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """RecommendRequest as decoded from a body that `is_plain`: its ids need no second look."""

    def __post_init__(self) -> None:
        for event in self.events:
            if type(event.timestamp) is not int and not _is_plausible(event.timestamp):
                super().__post_init__()  # says which
        if not _is_plausible(self.timestamp):
            super().__post_init__()
        self.check_meaning()


def is_plain(body: bytes) -> bool:
    """Whether no text of a JSON body can hold NUL or have more bytes than characters: it is ASCII without escapes."""
    return body.isascii() and b"\\u" not in body


class Recommended(msgspec.Struct, frozen=True, kw_only=True):
    """One item of an answer."""

    item_id: str
    score: float
    source: Literal["model", "promotion", "fallback"] = "model"
    metadata: dict[str, Any] | None = None
    reasons: list[str] | None = None


class RecommendResponse(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, best item first. Every field is always there."""

    recommendation_id: str
    items: list[Recommended]
    release: str
    variant: str = "default"
    events_used: int
    events_ignored: int
    missing_item_ids: list[str]
    history_seq: int | None  # number of stored events the answer knew of; null when none were asked for or could be read
    degraded: list[str]
    next_page_token: str | None = None
    took_ms: float


class SimilarRequest(_Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items like one of the catalogue, or like one described by its raw features; one of the two is required."""

    item_id: Id | None = None
    item: Annotated[dict[str, Feature], Meta(max_length=256)] | None = None
    num_results: NumResults = 10
    filter: FilterText | None = None
    exclude_item_ids: Ids = []
    include_metadata: Annotated[list[Text], Meta(max_length=64)] = []
    timeout_ms: Annotated[int, Meta(ge=1, le=60_000)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.item_id is None) == (self.item is None):
            raise ValueError("item_id: give either item_id or item")


class SimilarResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Most similar first; the score is the cosine of the item vectors."""

    items: list[Recommended]
    release: str
    degraded: list[str]
    took_ms: float


class EventsRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Events to store; each is judged by itself."""

    events: Annotated[list[Event], Meta(max_length=MAX_EVENTS)]


class EventsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """EventsRequest as decoded: events stay raw, so that one bad event does not refuse the others."""

    events: Annotated[list[msgspec.Raw], Meta(max_length=MAX_EVENTS)]


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """An event, item or id that was not stored, by its place in the request."""

    index: int
    reason: str


class EventsResponse(msgspec.Struct, frozen=True, kw_only=True):
    """`accepted` events are stored; `duplicates` were stored before under the same event_id."""

    accepted: int
    duplicates: int
    rejected: list[Rejected]


class PutItemsRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items to add or replace: `item_id`, and features by the schema's names; what is not given is missing."""

    items: Annotated[list[Annotated[dict[str, Feature], Meta(max_length=256)]], Meta(max_length=MAX_CHANGES)]


class PutItemsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PutItemsRequest as decoded: each item is judged by itself."""

    items: Annotated[list[msgspec.Raw], Meta(max_length=MAX_CHANGES)]


class DeleteItemsRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items to take out; an id that the catalogue does not know is taken out of what the nightly job reads next."""

    item_ids: Annotated[list[Id], Meta(max_length=MAX_CHANGES)]


class DeleteItemsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """DeleteItemsRequest as decoded: each id is judged by itself."""

    item_ids: Annotated[list[msgspec.Raw], Meta(max_length=MAX_CHANGES)]


class ItemsResponse(msgspec.Struct, frozen=True, kw_only=True):
    """`accepted` changes are stored and served from the next request on."""

    accepted: int
    rejected: list[Rejected]


class ItemResponse(msgspec.Struct, frozen=True, kw_only=True):
    """An item as it is served; `delta` when it was put after the release was built."""

    item_id: str
    source: Literal["release", "delta"]
    metadata: dict[str, Any]
    release: str


class UserEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A stored event; `timestamp` in epoch milliseconds."""

    event_type: str
    timestamp: int
    item_id: str | None
    event_id: str | None
    session_id: str | None
    value: float | None
    properties: dict[str, Any]
    recommendation_id: str | None
    position: int | None


class UserItem(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a user's whole history with one item; times in epoch milliseconds."""

    item_id: str
    count: int
    first: int
    last: int
    event_types: list[str]


class UserResponse(msgspec.Struct, frozen=True, kw_only=True):
    """All that is stored about a user: the last events, oldest first, and the items of all events."""

    user_id: str
    num_events: int
    history_seq: int
    events: list[UserEvent]
    items: list[UserItem]


class DeletedResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A user of whom nothing is stored any more."""

    user_id: str
    deleted_events: int


class ReleaseEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One release of the store; `current` is what the pointer names, `problem` why it could not be read."""

    id: str
    current: bool
    bundle: str | None = None
    vector_space_id: str | None = None
    items: int | None = None
    problem: str | None = None


class ReleasesResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The releases of the store, oldest first, and the one that answers."""

    serving: str
    releases: list[ReleaseEntry]


class HealthResponse(msgspec.Struct, frozen=True, kw_only=True):
    """State of the process; where there is an admin port, the details are told on it alone."""

    status: Literal["ok"]
    release: str | None = None
    heartbeat_age_s: float | None = None
