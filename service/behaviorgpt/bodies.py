"""The bodies that the client sends, and those that it accepts as answers. Fields that it may add one day are ignored."""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from service.api.schemas import MAX_EVENTS
from service.uploads.folder import RejectedItems

MAX_PLACE = 10_000  # the last item of a ranking that a page may show
Text = Annotated[str, Meta(max_length=4096)]
Words = Annotated[str, Meta(min_length=1, max_length=512)]
Moment = Annotated[datetime, Meta(tz=True)]
EventKind = Literal["viewItem", "search", "order", "addToCart", "removeFromCart"]


class OrderedItem(msgspec.Struct, frozen=True):
    """One item of an order."""

    product: Words
    quantity: float = 1


class ClientEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What happened: an item or a query, or the items of an order."""

    type: EventKind
    product: Words | None = None
    query: Text | None = None
    items: Annotated[list[OrderedItem], Meta(max_length=MAX_EVENTS)] | None = None


class HistoryEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a history. The client makes times and session ids itself, new ones in every call."""

    event: ClientEvent
    store_id: Words | None = None
    session_id: Words | None = None
    timestamp: Moment | None = None
    domains: dict[str, Text] = {}


class Kind(msgspec.Struct, frozen=True):
    """What a recommendation predicts."""

    name: Literal["view_next", "buy_next"]


class RankingBody(msgspec.Struct, frozen=True, kw_only=True):
    """Asks for a ranking. With a `query` the ranking is for a search, the last event of the history."""

    history: Annotated[list[HistoryEvent], Meta(max_length=MAX_EVENTS)] = []
    query: Text | None = None
    user_id: Words | None = None
    store_id: Words | None = None
    domains: dict[str, Text] = {}
    limit: Annotated[int, Meta(ge=1, le=100)] = 10
    offset: Annotated[int, Meta(ge=0, lt=MAX_PLACE)] = 0
    filters: Annotated[dict[str, Any], Meta(max_length=64)] = {}
    register_event: bool = False
    timestamp: Moment | None = None
    max_trailing_searches: Annotated[int, Meta(ge=1, le=10)] = 3
    type: Kind | None = None


class SectionsBody(RankingBody, frozen=True, kw_only=True):
    """Asks for a ranking in sections."""

    max_sections: Annotated[int, Meta(ge=1, le=15)] = 10
    max_products_per_section: Annotated[int, Meta(ge=1, le=100)] = 25
    min_products_per_section: Annotated[int, Meta(ge=0, le=100)] = 5


class SimilarBody(msgspec.Struct, frozen=True, kw_only=True):
    """Asks for items like another one."""

    product_id: Words
    store_id: Words | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 10
    offset: Annotated[int, Meta(ge=0, lt=MAX_PLACE)] = 0
    filters: Annotated[dict[str, Any], Meta(max_length=64)] = {}


class ClientItem(msgspec.Struct, frozen=True, kw_only=True):
    """One item of an answer."""

    id: str
    score: float
    data: dict[str, Any]
    store_id: str


class Products(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a ranking."""

    items: list[ClientItem]
    offset: int
    limit: int


class RankingAnswer(msgspec.Struct, frozen=True):
    """A ranking."""

    products: Products


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """Items of a ranking that have something in common, which the title says."""

    title: str
    products: list[ClientItem]


class SectionsAnswer(msgspec.Struct, frozen=True):
    """A ranking in sections."""

    sections: list[Section]


class KeywordsBody(msgspec.Struct, frozen=True):
    """Asks for the terms that titles of sections are made from."""

    mode: Literal["fast", "product"] = "fast"


class CatalogueEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One catalogue in the list."""

    catalog_id: str
    catalog_name: str
    status: Literal["pending", "ready", "failed"]
    owned: bool


class CatalogueList(msgspec.Struct, frozen=True):
    """All catalogues."""

    catalogs: list[CatalogueEntry]


class StartedJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job that was accepted."""

    job_id: str
    catalog_id: str
    catalog_name: str
    uri: str | None = None
    products: int | None = None  # item ids in the upload


class JobAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state of a job."""

    job_id: str
    status: Literal["pending", "ready", "failed"]
    stage: str | None = None
    stage_state: str | None = None
    phase: str | None = None
    done: int | None = None
    total: int | None = None
    error: str | None = None
    products_rejected: RejectedItems | None = None
    keywords: str | None = None
