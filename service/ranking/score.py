"""POST /v1/score: how likely given items are to come next for a user."""

from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from service.api.schemas import MAX_LISTED_IDS, AboutUser, Id
from service.histories.history import UserHistory
from service.ranking.probability import log_probabilities
from service.ranking.rules import known_rows
from service.ranking.user_request import ask_model, read_user
from service.release.loaded import LoadedRelease


class ScoreRequest(AboutUser, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How likely each of some items is to come next for a user."""

    candidate_item_ids: Annotated[list[Id], Meta(max_length=MAX_LISTED_IDS)]


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


@dataclass(frozen=True, slots=True)
class Scores:
    """Scored items, and what they stand on."""

    items: list[Scored]
    events_used: int
    events_ignored: int
    missing_item_ids: list[str]


def score(release: LoadedRelease, asked: ScoreRequest, stored: UserHistory, now_ms: int) -> Scores:
    """The candidates by probability; equal ones by the lower row. On the engine's thread."""
    user = read_user(release, asked, stored, now_ms)
    rows = np.unique(np.array(known_rows(release, asked.candidate_item_ids), np.int64))
    items: list[Scored] = []
    if len(rows):
        (log_p_R,) = log_probabilities(release, ask_model(release, [user.request]), rows)
        order = np.argsort(-log_p_R, kind="stable")
        items = [Scored(item_id=release.item_ids[rows[i]], log_probability=float(log_p_R[i])) for i in order]
    return Scores(items, user.events_used, user.events_ignored, user.missing(release, asked.candidate_item_ids))
