"""Request and response of POST /v1/score."""

from typing import Annotated

import msgspec
from msgspec import Meta

from service.api.schemas import MAX_LISTED_IDS, AboutUser, Id


class ScoreRequest(AboutUser, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asks how likely each of the given items is to come next for a user."""

    candidate_item_ids: Annotated[list[Id], Meta(max_length=MAX_LISTED_IDS)]  # the items to score


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
