"""Request and response of POST /v1/map/points. GET /v1/map answers in a format of its own, which docs/api.md describes."""

from typing import Annotated

import msgspec
from msgspec import Meta

from service.api.schemas import Id

MAX_POINTS = 500


class MapPointsRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asks which items lie at points of the map, and at which points items lie."""

    points: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(max_length=MAX_POINTS)] = []  # as GET /v1/map numbers them, from 0
    item_ids: Annotated[list[Id], Meta(max_length=MAX_POINTS)] = []


class MapPoint(msgspec.Struct, frozen=True, kw_only=True):
    """An item on the map."""

    point: int
    item_id: str
    title: str | None  # as the schema names it; null for an item without one


class MapPointsResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The points asked for, then those of the items asked for. What is not on the map, or no longer sold, is left out."""

    points: list[MapPoint]
    release: str  # if it is another one than that of your map, its points are others: get the map again
