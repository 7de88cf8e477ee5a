"""Body and answer of POST /v1/score."""

from typing import Annotated

import msgspec
from msgspec import Meta

from service.api.schemas import MAX_LISTED_IDS, AboutUser, Id


class ScoreRequest(AboutUser, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How likely each of some items is to come next for a user."""

    candidate_item_ids: Annotated[list[Id], Meta(max_length=MAX_LISTED_IDS)]  # the items to score


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """An item and the natural log of its probability to be the next event's, among all items of the catalogue."""

    item_id: str
    log_probability: float  # `exp` of it, over all items of the catalogue, adds up to 1


class ScoreResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The items that the catalogue knows, likeliest first, each once."""

    items: list[Scored]  # likeliest first
    release: str  # the release that scored
    variant: str = "default"  # as in the answer to a recommendation, and so are the fields below
    events_used: int
    events_ignored: int
    missing_item_ids: list[str]
    history_seq: int | None
    degraded: list[str]
    took_ms: float  # time in the server, in milliseconds
