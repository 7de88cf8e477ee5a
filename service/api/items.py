"""Requests and responses of /v1/items."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from service.api.schemas import Feature, Id, Rejected

MAX_CHANGES = 1000


class PutItemsRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items to add or replace: `item_id`, and features by the schema's names; what is not given is missing."""

    items: Annotated[list[Annotated[dict[str, Feature], Meta(max_length=256)]], Meta(max_length=MAX_CHANGES)]


class PutItemsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PutItemsRequest as decoded: each item is checked by itself."""

    items: Annotated[list[msgspec.Raw], Meta(max_length=MAX_CHANGES)]


class DeleteItemsRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items to take out of the catalogue; an id that it does not know is taken out of what the nightly job reads next."""

    item_ids: Annotated[list[Id], Meta(max_length=MAX_CHANGES)]  # items to take out


class DeleteItemsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """DeleteItemsRequest as decoded: each id is checked by itself."""

    item_ids: Annotated[list[msgspec.Raw], Meta(max_length=MAX_CHANGES)]


class ItemsResponse(msgspec.Struct, frozen=True, kw_only=True):
    """`accepted` changes are stored and served from the next request on."""

    accepted: int  # stored and served
    rejected: list[Rejected]  # not stored, and why


class ItemResponse(msgspec.Struct, frozen=True, kw_only=True):
    """An item as it is served; `delta` when it was put after the release was built."""

    item_id: str
    source: Literal["release", "delta"]  # where it was read from
    metadata: dict[str, Any]  # its features
    release: str  # the release that is served
