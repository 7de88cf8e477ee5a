"""What the server answers. Fields that a newer server adds are ignored.

Made by clients/generate.py from the types of the server: run it after a change there.
"""

from typing import Any

import msgspec


class CatalogueGroup(msgspec.Struct, frozen=True, kw_only=True):
    """The items that share one value of the grouping feature."""

    name: str
    items: int  # how many


class CatalogueFeature(msgspec.Struct, frozen=True, kw_only=True):
    """One feature of the items."""

    name: str
    kind: str  # text, categorical, numeric, time, list or vector
    values: int | None  # distinct values of a categorical feature; null for other kinds


class CatalogueResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What the served catalogue holds, for pages that show it."""

    release: str  # the release that is served
    items: int  # number of items
    title: str | None  # the feature that names an item for people
    group: str | None  # the categorical feature that is best to group by: the one with 2 to 64 values, the first if several
    groups: list[CatalogueGroup]  # its values, the largest first
    features: list[CatalogueFeature]  # in the order of the schema
    popularity_as_of: int | None  # the last moment whose events the release counted, in epoch milliseconds


class FoundItem(msgspec.Struct, frozen=True, kw_only=True):
    """An item that was found."""

    item_id: str
    metadata: dict[str, Any]  # the item's features


class FindItemsResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Items found: those whose title holds all words first, then the others, the most popular first."""

    items: list[FoundItem]
    matching: int  # how many items match, those beyond `limit` included
    release: str  # the release that was searched


class MapPoint(msgspec.Struct, frozen=True, kw_only=True):
    """An item on the map."""

    point: int
    item_id: str
    title: str | None  # as the schema names it; null for an item without one


class MapPointsResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The points asked for, then those of the items asked for. What is not on the map, or no longer sold, is left out."""

    points: list[MapPoint]
    release: str  # if it is another one than that of your map, its points are others: get the map again


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
    source: str = "model"  # whether its score or a promotion gave the item its place
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
    events_ignored: int
    missing_item_ids: list[str]  # items that the request or its history names and the catalogue does not know
    history_seq: int | None  # number of the user's stored events; null if no stored history was requested or could be read
    degraded: list[str]  # what the answer lacks, such as `history_unavailable` or `promotion_short`; empty is the normal case
    next_page_token: str | None = None  # send it as `page_token` for the next page; null at the end
    took_ms: float  # time in the server, in milliseconds


class BatchResponse(msgspec.Struct, frozen=True, kw_only=True):
    """For each request what it would have got alone: its answer, or the body of its error."""

    results: list[Any]  # in the order of the requests
    took_ms: float  # time in the server, in milliseconds


class ScoredItem(msgspec.Struct, frozen=True, kw_only=True):
    """An item, and the probability that it is the item of the user's next event, among all items of the catalogue."""

    item_id: str
    log_probability: float  # natural log of the probability; the probabilities of all items of the catalogue add up to 1


class ScoreResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The requested items that the catalogue knows, most likely first, each once."""

    items: list[ScoredItem]  # most likely first
    release: str  # the release that computed the scores
    variant: str  # this field and those below mean the same as in a recommendation response
    events_used: int
    events_ignored: int
    missing_item_ids: list[str]
    history_seq: int | None
    degraded: list[str]
    took_ms: float  # time in the server, in milliseconds


class SimilarResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Similar items. Their score is the cosine of the item vectors; with a user, it is the model's score for that user."""

    items: list[Recommended]  # highest score first
    release: str  # the release that ranked the items
    degraded: list[str]  # as in a recommendation response; empty is the normal case
    took_ms: float  # time in the server, in milliseconds


class ItemResponse(msgspec.Struct, frozen=True, kw_only=True):
    """An item as it is served."""

    item_id: str
    source: str  # `delta` if it was put after the release was built
    metadata: dict[str, Any]  # the item's features
    release: str  # the release that is served


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """An event, item or id of the request that was rejected and not stored."""

    index: int  # its place in the request, from 0
    reason: str  # what to correct


class EventsResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of storing events."""

    accepted: int  # events that were stored now
    duplicates: int  # events that were stored before under the same event_id
    rejected: list[Rejected]  # events that were not stored, and why


class DeletedResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A user whose history was deleted."""

    user_id: str
    deleted_events: int  # number of stored events that were deleted


class PointerResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The pointer that was written. A server follows it after its next look at the store, if it can load the release."""

    sequence: int  # the pointer's sequence number
    release: str  # the release that the pointer names
    previous: str | None  # the release that a rollback goes back to


class RefreshResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a look at the pointer, and the release that answers now.

    `unchanged`: nothing was to be done. `swapped`: the named release answers now. `trial`: it is a canary now. `refused`: it
    cannot be used and is quarantined. `unavailable`: the store or the release could not be read, and the server tries again.
    """

    outcome: str  # what the server did
    serving: str  # the release that answers now


class ItemsResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a change of items. Accepted changes are stored, and served from the next request on."""

    accepted: int  # changes that were stored and are served
    rejected: list[Rejected]  # changes that were not stored, and why


class TrialOutcomes(msgspec.Struct, frozen=True, kw_only=True):
    """The requests that one release answered during a trial."""

    requests: int  # how many
    failed: int  # of them, those in which the release failed
    degraded: int  # of them, those whose answer lacked something, or had no item
    p99_ms: float | None  # 99th percentile of the time of its model work; null before the first request


class TrialReport(msgspec.Struct, frozen=True, kw_only=True):
    """The trial of a release so far, on this server."""

    release: str  # the release on trial
    passed: bool  # whether its time is over and no limit is broken; it waits for the pointer to name it
    percent: float  # share of the users that it answers
    seconds: float  # length of the trial
    new: TrialOutcomes  # requests that the release on trial answered
    current: TrialOutcomes  # requests that the current release answered meanwhile
    overlap: float | None  # mean share of the first ten items that both answer; null before the first comparison


class ReleaseEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One release of the store."""

    id: str
    current: bool  # whether the store's pointer names it
    bundle: str | None = None  # the bundle that it was built from
    vector_space_id: str | None = None  # releases of one space have comparable vectors
    items: int | None = None  # number of items
    problem: str | None = None  # why the release could not be read; null if it could


class ReleasesResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The releases of the store, and how this server uses them."""

    serving: str  # the release that answers requests
    previous: str | None  # the release served before, if it is still in memory for an instant rollback
    canary: str | None  # the release on trial, which answers a share of the requests
    trial: TrialReport | None  # how the trial goes, if there is one
    cpu_dtype: str  # what the model multiplies for the serving release, where it runs on a CPU
    quarantined: dict[str, str]  # releases that are not served until the pointer moves, with the reason
    releases: list[ReleaseEntry]  # the releases of the store, oldest first


class ListedUser(msgspec.Struct, frozen=True, kw_only=True):
    """A user whose history is stored."""

    user_id: str
    num_events: int  # events ever stored


class ListUsersResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Users whose histories are stored."""

    users: list[ListedUser] | None  # null when the store cannot list its users: Redis would have to read all its keys
    more: bool  # whether there are users after these


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


class HealthResponse(msgspec.Struct, frozen=True, kw_only=True):
    """State of the process. If there is an admin port, only the response on that port has the details."""

    status: str
    release: str | None = None  # the release that answers
    heartbeat_age_s: float | None = None  # seconds since the engine last moved


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong, in which field, and the request id under which the server's log has more."""

    code: str
    message: str
    request_id: str
    field: str | None = None


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every error response."""

    error: ErrorDetail


class AllRejected(ErrorBody, frozen=True, kw_only=True):
    """The error 422 of events of which none was stored, because every one was rejected; `rejected` has the reason of each."""

    accepted: int = 0
    duplicates: int = 0
    rejected: list[Rejected]


STATUS: dict[str, int] = {
    "malformed_json": 400,
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "slow_body": 408,
    "conflict": 409,
    "catalog_pending": 409,
    "body_too_large": 413,
    "unsupported_media_type": 415,
    "invalid_request": 422,
    "page_expired": 422,
    "quota_exceeded": 429,
    "internal": 500,
    "delta_off": 501,
    "uploads_off": 501,
    "not_ready": 503,
    "overloaded": 503,
    "history_unavailable": 503,
    "delta_unavailable": 503,
    "deadline_exceeded": 504,
    "delta_full": 507,
    "no_room": 507,
}
