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
    log_probability: float


class ScoreResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Those of the items that the catalogue knows, the likeliest first, each once."""

    items: list[Scored]
    release: str
    variant: str = "default"
    events_used: int
    events_ignored: int
    missing_item_ids: list[str]
    history_seq: int | None
    degraded: list[str]
    took_ms: float
