"""Requests and responses: the types that bodies are decoded into, and that the OpenAPI document is made from.

Unknown fields are refused, because a misspelt `exclude_sen` must not silently change an answer.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from service.api.errors import ErrorBody
from twotower.data.events import MAX_QUERY
from twotower.data.words import tokens
from twotower.tables.ids import MAX_ID_BYTES
from twotower.tables.times import EARLIEST_MS, LATEST_MS

EARLIEST = datetime.fromtimestamp(EARLIEST_MS / 1000, UTC)
LATEST = datetime.fromtimestamp(LATEST_MS / 1000, UTC)
MAX_RESULTS = 500
MAX_EVENTS = 1024
MAX_LISTED_IDS = 10_000
MAX_PROMOTIONS = 10  # each needs a search of its own
MAX_EXPLAINED = 20
MAX_FILTER_CHARACTERS = 1000
_BACKSLASH = ord("\\")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_EXACT = 2**53  # many JSON clients read numbers as doubles, which cannot hold all larger integers


def milliseconds(moment: datetime) -> int:
    """The moment in epoch milliseconds, rounded down without floating-point error."""
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
QueryText = Annotated[str, Meta(min_length=1, max_length=MAX_QUERY, description="What the user typed")]
HistoryMode = Literal["append", "replace", "stored"]


def to_ms(timestamp: datetime | int) -> int:
    """A Timestamp in epoch milliseconds."""
    return timestamp if isinstance(timestamp, int) else milliseconds(timestamp)


def check_id(value: str) -> None:
    """ValueError for an id that is empty, too long in bytes, or holds NUL: tools written in C would cut it off there."""
    if not value or len(value.encode()) > MAX_ID_BYTES:
        raise ValueError(f"an id has 1 to {MAX_ID_BYTES} UTF-8 bytes")
    if "\0" in value:
        raise ValueError("an id must not hold a NUL character")


class Checked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request body that checks its ids and moments after its types; the ValueError starts with the name of the field."""

    def __post_init__(self) -> None:
        check_texts(self)


class _Named(NamedTuple):
    """The names of the fields of a type that need further checks, by kind of check."""

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
    """ValueError for an id or moment that cannot be used; it starts with the name of the field."""
    named = _named(type(value))
    for name in named.ids:
        _check_ids(name, (getattr(value, name),))
    for name in named.id_lists:
        _check_ids(name, getattr(value, name) or ())
    for name in named.moments:
        if not _is_plausible(getattr(value, name)):
            raise ValueError(f"{name}: it is outside 1980 to 2100")


def _check_ids(name: str, ids: Sequence[str | None]) -> None:
    for value in ids:
        if value is not None:
            try:
                check_id(value)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None


def _is_plausible(moment: "datetime | int | None") -> bool:
    return not isinstance(moment, datetime) or EARLIEST <= moment <= LATEST  # a number is checked by its type


# An event does not check itself when it is made. Its decoder calls `check_event` where this is needed, because a call for each of
# fifty events would be the largest cost of a request. It opts out of garbage collection, as it cannot be part of a cycle.
class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Something a user did. `properties` may hold the event features that the schema names.

    A search is an event of type `search` with a `query` and without an `item_id`.
    """

    event_type: Id  # such as `purchase`; the model reads a type that it was not trained on as unknown
    timestamp: Timestamp  # when it happened
    user_id: Id | None = None  # required by /events; inline events belong to the request's user
    item_id: Id | None = None  # an item that the catalogue does not know is stored, and ignored by the model
    query: QueryText | None = None  # the text of a search, with at least one letter or digit
    event_id: Id | None = None  # an id of your own: an event that is sent twice under one id is stored once
    session_id: Id | None = None  # stored with the event
    value: float | None = None  # stored with the event, such as an amount paid
    properties: Properties = {}  # further values; the model reads those that are event features of the schema
    recommendation_id: Id | None = None  # the recommendation that led to this event
    position: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None  # the place of the item in that recommendation

    @property
    def time_ms(self) -> int:
        """The timestamp in epoch milliseconds."""
        return to_ms(self.timestamp)


def check_event(event: Event) -> None:
    """ValueError for an event that cannot be used; it starts with the name of the field."""
    check_texts(event)
    if event.query is not None and event.item_id is not None:
        raise ValueError("query: a search has no item_id; send the item that the user chose as an event of its own")
    if event.query is not None and not tokens(event.query):
        raise ValueError("query: it has no letter and no digit")


class AboutUser(Checked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The user that a request is about, known by stored history, inline events or both, at a moment."""

    user_id: Id | None = None  # whose stored history is read; without it only `events` are known
    session_id: Id | None = None  # without a `user_id`, decides which variant answers and whose cached state is used
    events: Annotated[list[Event], Meta(max_length=MAX_EVENTS)] = []  # inline events: known to this request, not stored
    history_mode: HistoryMode = "append"  # inline events are read with the stored ones, instead of them, or not at all
    target_event_type: Id | None = None  # rank for the next event of this type; without it, for the next event of any type
    timestamp: Timestamp | None = None  # the moment to rank for, by the events before it; without it, now
    strict: bool = False  # if the stored history cannot be read: true answers 503, false answers without it
    timeout_ms: Annotated[int, Meta(ge=1, le=60_000)] | None = None  # 504 after this time; default `TWOTOWER_REQUEST_TIMEOUT_S`

    def __post_init__(self) -> None:
        super().__post_init__()
        for index, event in enumerate(self.events):
            try:
                check_event(event)
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


class Promotion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items that get a place whatever their score: the best of those that match, at one place or in a share of all places."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]  # returned with each item that this promotion placed
    filter: FilterText  # which items this promotion may place
    position: Annotated[int, Meta(ge=1, le=MAX_RESULTS, description="1 is the first place, over all pages")] | None = None
    percent: Annotated[float, Meta(gt=0, le=100, description="At least this share of the first n, for every n")] | None = None


class RecommendRequest(AboutUser, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rank what comes next for a user."""

    num_results: NumResults = 10  # items of the answer, or of one page
    filter: FilterText | None = None  # only items whose features match
    exclude_item_ids: Ids = []  # never these items
    exclude_seen: bool = False  # leave out past items: those that the user had any event with
    exclude_event_types: Annotated[list[Id], Meta(max_length=64)] = []  # leave out past items that had an event of these types
    candidate_item_ids: Ids | None = None  # only these items
    promotions: Annotated[list[Promotion], Meta(max_length=MAX_PROMOTIONS)] = []  # items that get a place whatever their score
    diversity: Annotated[float, Meta(ge=0, le=1, description="0 ranks by score alone, 1 by dissimilarity alone")] = 0.0
    include_metadata: Annotated[list[Text], Meta(max_length=64)] = []  # features of the items to return
    explain: bool = False  # give reasons: past items that make each item more likely; for at most 20 items
    page_token: Annotated[str, Meta(max_length=8192, description="`next_page_token` of the page before")] | None = None
    validate_only: bool = False  # check the request and answer without items

    def check_meaning(self) -> None:
        """ValueError for fields that contradict each other."""
        super().check_meaning()
        if self.explain and self.num_results > MAX_EXPLAINED:
            raise ValueError(f"explain: at most {MAX_EXPLAINED} items are explained; ask for fewer in num_results")
        if self.promotions:
            check_promotions(self.promotions)


def check_promotions(promotions: Sequence[Promotion]) -> None:
    """ValueError for promotions that no ranking could satisfy together."""
    taken: dict[int, str] = {}
    for index, promotion in enumerate(promotions):
        if (promotion.position is None) == (promotion.percent is None):
            raise ValueError(f"promotions[{index}].position: give either position or percent")
        if promotion.position in taken:
            other = taken[promotion.position]
            raise ValueError(f"promotions[{index}].position: {other!r} has position {promotion.position} already")
        if promotion.position is not None:
            taken[promotion.position] = promotion.name
    if (total := round(sum(p.percent or 0 for p in promotions), 6)) > 100:
        raise ValueError(f"promotions: their percents add up to {total:g}, more than there are places")


class PlainRecommendRequest(RecommendRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """RecommendRequest as decoded from a body that `is_plain`. Its ids need no further check."""

    def __post_init__(self) -> None:
        for event in self.events:
            if event.query is not None or (type(event.timestamp) is not int and not _is_plausible(event.timestamp)):
                super().__post_init__()  # raises an error that names the field, if there is one
        if not _is_plausible(self.timestamp):
            super().__post_init__()
        self.check_meaning()


def is_plain(body: bytes) -> bool:
    """Whether a JSON body is ASCII without \\u escapes. Then no text in it has NUL, or more bytes than characters."""
    return body.isascii() and (_BACKSLASH not in body or b"\\u" not in body)  # one byte is found ten times as fast as two


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """A past item that makes a recommended item more likely. It may be the recommended item itself."""

    text: str  # the reason as a sentence
    item_id: str  # the past item
    last: int  # time of the past item's last event, in epoch milliseconds
    effect: float | None  # natural log of the factor by which it makes the item more likely; null if not computed


class Recommended(msgspec.Struct, frozen=True, kw_only=True):
    """One item of an answer."""

    item_id: str  # as the catalogue names it
    score: float  # can be compared only within this answer; `/v1/score` gives probabilities
    source: Literal["model", "promotion"] = "model"  # whether its score or a promotion gave the item its place
    promotion: str | None = None  # name of that promotion
    metadata: dict[str, Any] | None = None  # the features that `include_metadata` names
    reasons: list[Explanation] | None = None  # why the item is recommended, if the request has `explain`


class RecommendResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A recommendation. Every field is always there."""

    recommendation_id: str  # send it with the events that follow this answer
    items: list[Recommended]  # best first
    release: str  # the release that ranked the items
    variant: str  # name of the arm that answered, `default` without a plan of variants; or `canary`
    events_used: int  # events of the window that the model read
    events_ignored: (
        int  # events of the window whose item the catalogue does not know; and searches, if the model cannot read them
    )
    missing_item_ids: list[str]  # items that the request or its history names and the catalogue does not know
    history_seq: int | None  # number of the user's stored events; null if no stored history was requested or could be read
    degraded: list[str]  # what the answer lacks, such as `history_unavailable` or `promotion_short`; empty is the normal case
    next_page_token: str | None = None  # send it as `page_token` for the next page; null at the end
    took_ms: float  # time in the server, in milliseconds


class SimilarRequest(AboutUser, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Find items like an item of the catalogue, or like an item described by its raw features. One of the two is required.

    With a user, the most similar items are ranked by what comes next for that user.
    """

    item_id: Id | None = None  # an item of the catalogue
    item: Annotated[dict[str, Feature], Meta(max_length=256)] | None = None  # or an item described by the schema's features
    num_results: NumResults = 10  # items of the answer
    filter: FilterText | None = None  # only items whose features match
    exclude_item_ids: Ids = []  # never these items
    include_metadata: Annotated[list[Text], Meta(max_length=64)] = []  # features of the items to return

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.item_id is None) == (self.item is None):
            raise ValueError("item_id: give either item_id or item")


class SimilarResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Similar items. Their score is the cosine of the item vectors; with a user, it is the model's score for that user."""

    items: list[Recommended]  # highest score first
    release: str  # the release that ranked the items
    degraded: list[str]  # as in a recommendation response; empty is the normal case
    took_ms: float  # time in the server, in milliseconds


class EventsRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Events to store. Each is checked on its own."""

    events: Annotated[list[Event], Meta(max_length=MAX_EVENTS)]  # each with its `user_id`


class EventsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """EventsRequest as the server decodes it: events stay raw, so that one bad event does not spoil the others."""

    events: Annotated[list[msgspec.Raw], Meta(max_length=MAX_EVENTS)]


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """An event, item or id of the request that was rejected and not stored."""

    index: int  # its place in the request, from 0
    reason: str  # what to correct


class AllRejected(ErrorBody, frozen=True, kw_only=True):
    """The error 422 of events of which none was stored, because every one was rejected; `rejected` has the reason of each."""

    accepted: int = 0
    duplicates: int = 0
    rejected: list[Rejected]


class EventsResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of storing events."""

    accepted: int  # events that were stored now
    duplicates: int  # events that were stored before under the same event_id
    rejected: list[Rejected]  # events that were not stored, and why


class UserEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A stored event; `timestamp` in epoch milliseconds."""

    event_type: str
    timestamp: int
    item_id: str | None
    query: str | None
    event_id: str | None
    session_id: str | None
    value: float | None
    properties: dict[str, Any]
    recommendation_id: str | None
    position: int | None


class UserItem(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of a user's whole history with one item; times in epoch milliseconds."""

    item_id: str
    count: int  # events with the item
    first: int  # time of the first of these events
    last: int  # time of the last of these events
    event_types: list[str]  # types of these events


class UserResponse(msgspec.Struct, frozen=True, kw_only=True):
    """All that is stored about a user: the last events, and statistics of the items of all events."""

    user_id: str
    num_events: int  # events ever stored
    history_seq: int  # grows with every stored event
    events: list[UserEvent]  # the last 256, oldest first
    items: list[UserItem]  # up to 4,096 of them


class DeletedResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A user whose history was deleted."""

    user_id: str
    deleted_events: int  # number of stored events that were deleted


class HealthResponse(msgspec.Struct, frozen=True, kw_only=True):
    """State of the process. If there is an admin port, only the response on that port has the details."""

    status: Literal["ok"]
    release: str | None = None  # the release that answers
    heartbeat_age_s: float | None = None  # seconds since the engine last moved
