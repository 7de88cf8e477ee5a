"""Queries and responses about the catalogue as a whole, and about the users that a store knows."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from service.api.schemas import Id

MAX_LISTED = 100


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


class FindItemsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query parameters of GET /v1/items, which finds items by words. It asks no model: the best known items come first."""

    words: Annotated[str, Meta(max_length=100)] = ""  # all of them are in an item's title, text or categories, in any case
    group: Annotated[str, Meta(max_length=256)] | None = None  # only items of this group, as GET /v1/catalogue names it
    limit: Annotated[int, Meta(ge=1, le=MAX_LISTED)] = 20  # items of the answer


class FoundItem(msgspec.Struct, frozen=True, kw_only=True):
    """An item that was found."""

    item_id: str
    metadata: dict[str, Any]  # the item's features


class FindItemsResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Items found: those whose title holds all words first, then the others, the most popular first."""

    items: list[FoundItem]
    matching: int  # how many items match, those beyond `limit` included
    release: str  # the release that was searched


class ListUsersQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query parameters of GET /v1/users, which lists users in the order of their ids."""

    after: Id | None = None  # only users after this id: the last one of the page before
    prefix: Annotated[str, Meta(max_length=128)] = ""  # only users whose id begins so
    limit: Annotated[int, Meta(ge=1, le=MAX_LISTED)] = 50  # users of the answer


class ListedUser(msgspec.Struct, frozen=True, kw_only=True):
    """A user whose history is stored."""

    user_id: str
    num_events: int  # events ever stored


class ListUsersResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Users whose histories are stored."""

    users: list[ListedUser] | None  # null when the store cannot list its users: Redis would have to read all its keys
    more: bool  # whether there are users after these
