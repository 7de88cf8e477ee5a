"""What is sent to the server, as keyword arguments and dictionaries.

Made by clients/generate.py from the types of the server: run it after a change there.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, Required, TypedDict

Property = str | int | float | bool | None
Feature = str | int | float | bool | Sequence[str | int | float | None] | None
Moment = datetime | int | str  # with its zone; epoch milliseconds; RFC 3339


class FindItemsQuery(TypedDict, total=False):
    """The query parameters of GET /v1/items, which finds items by words. It asks no model: the best known items come first."""

    words: str  # all of them are in an item's title, text or categories, in any case
    group: str | None  # only items of this group, as GET /v1/catalogue names it
    limit: int  # items of the answer


class MapPointsRequest(TypedDict, total=False):
    """Asks which items lie at points of the map, and at which points items lie."""

    points: Sequence[int]  # as GET /v1/map numbers them, from 0
    item_ids: Sequence[str]


class PlanQuery(TypedDict, total=False):
    """The query parameters of GET /v1/plan, which plans a training run. The answer needs no model and is of no release."""

    flops: Required[float]  # training compute to spend, such as 1e18
    metric: Required[str]  # the metric that you serve, such as ndcg@10
    items: float | None  # items of the catalogue
    events: float | None  # training events that there are, repeats not counted
    gpu_memory: str | None  # memory of one device, such as 80GB
    rate: float | None  # FLOPs that your hardware does in a second of training


class Event(TypedDict, total=False):
    """Something a user did. `properties` may hold the event features that the schema names.

    A search is an event of type `search` with a `query` and without an `item_id`.
    """

    event_type: Required[str]  # such as `purchase`; the model reads a type that it was not trained on as unknown
    timestamp: Required[Moment]  # when it happened
    user_id: str | None  # required by /events; inline events belong to the request's user
    item_id: str | None  # an item that the catalogue does not know is stored, and ignored by the model
    query: str | None  # the text of a search, with at least one letter or digit
    event_id: str | None  # an id of your own: an event that is sent twice under one id is stored once
    session_id: str | None  # stored with the event
    value: float | None  # stored with the event, such as an amount paid
    properties: Mapping[str, Property]  # further values; the model reads those that are event features of the schema
    recommendation_id: str | None  # the recommendation that led to this event
    position: int | None  # the place of the item in that recommendation


class AboutUser(TypedDict, total=False):
    """The user that a request is about, known by stored history, inline events or both, at a moment."""

    user_id: str | None  # whose stored history is read; without it only `events` are known
    session_id: str | None  # without a `user_id`, decides which variant answers and whose cached state is used
    events: Sequence[Event]  # inline events: known to this request, not stored
    # inline events are read with the stored ones, instead of them, or not at all
    history_mode: Literal["append", "replace", "stored"]
    target_event_type: str | None  # rank for the next event of this type; without it, for the next event of any type
    timestamp: Moment | None  # the moment to rank for, by the events before it; without it, now
    strict: bool  # if the stored history cannot be read: true answers 503, false answers without it
    timeout_ms: int | None  # 504 after this time; default `TWOTOWER_REQUEST_TIMEOUT_S`


class Promotion(TypedDict, total=False):
    """Items that get a place whatever their score: the best of those that match, at one place or in a share of all places."""

    name: Required[str]  # returned with each item that this promotion placed
    filter: Required[str]  # which items this promotion may place
    position: int | None  # 1 is the first place, over all pages
    percent: float | None  # At least this share of the first n, for every n


class RecommendRequest(AboutUser, total=False):
    """Rank what comes next for a user."""

    num_results: int  # items of the answer, or of one page
    filter: str | None  # only items whose features match
    exclude_item_ids: Sequence[str]  # never these items
    exclude_seen: bool  # leave out past items: those that the user had any event with
    exclude_event_types: Sequence[str]  # leave out past items that had an event of these types
    candidate_item_ids: Sequence[str] | None  # only these items
    promotions: Sequence[Promotion]  # items that get a place whatever their score
    diversity: float  # 0 ranks by score alone, 1 by dissimilarity alone
    include_metadata: Sequence[str]  # features of the items to return
    explain: bool  # give reasons: past items that make each item more likely; for at most 20 items
    page_token: str | None  # `next_page_token` of the page before
    validate_only: bool  # check the request and answer without items


class ScoreRequest(AboutUser, total=False):
    """Asks how likely each of the given items is to come next for a user."""

    candidate_item_ids: Required[Sequence[str]]  # the items to score


class SimilarRequest(AboutUser, total=False):
    """Find items like an item of the catalogue, or like an item described by its raw features. One of the two is required.

    With a user, the most similar items are ranked by what comes next for that user.
    """

    item_id: str | None  # an item of the catalogue
    item: Mapping[str, Feature] | None  # or an item described by the schema's features
    num_results: int  # items of the answer
    filter: str | None  # only items whose features match
    exclude_item_ids: Sequence[str]  # never these items
    include_metadata: Sequence[str]  # features of the items to return


class ListUsersQuery(TypedDict, total=False):
    """The query parameters of GET /v1/users, which lists users in the order of their ids."""

    after: str | None  # only users after this id: the last one of the page before
    prefix: str  # only users whose id begins so
    limit: int  # users of the answer
