"""Requests and responses of /v1/items."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from service.api.schemas import Feature, Id, Rejected

MAX_CHANGES = 1000


class PutItemsRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items to add or replace, each with `item_id` and features by the schema's names. A feature that is left out is missing."""

    items: Annotated[list[Annotated[dict[str, Feature], Meta(max_length=256)]], Meta(max_length=MAX_CHANGES)]


class PutItemsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PutItemsRequest as the server decodes it: items stay raw, so that one bad item does not spoil the others."""

    items: Annotated[list[msgspec.Raw], Meta(max_length=MAX_CHANGES)]


class DeleteItemsRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items to remove. An id that the catalogue does not know is stored too, and the nightly job leaves that item out."""

    item_ids: Annotated[list[Id], Meta(max_length=MAX_CHANGES)]  # items to remove


class DeleteItemsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """DeleteItemsRequest as the server decodes it: ids stay raw, so that one bad id does not spoil the others."""

    item_ids: Annotated[list[msgspec.Raw], Meta(max_length=MAX_CHANGES)]


class ItemsResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a change of items. Accepted changes are stored, and served from the next request on."""

    accepted: int  # changes that were stored and are served
    rejected: list[Rejected]  # changes that were not stored, and why


class ItemResponse(msgspec.Struct, frozen=True, kw_only=True):
    """An item as it is served."""

    item_id: str
    source: Literal["release", "delta"]  # `delta` if it was put after the release was built
    metadata: dict[str, Any]  # the item's features
    release: str  # the release that is served
