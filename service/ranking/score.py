"""POST /v1/score: how likely given items are to come next for a user."""

from dataclasses import dataclass

import numpy as np

from service.api.scores import Scored, ScoreRequest
from service.histories.history import UserHistory
from service.ranking.allowed import known_rows
from service.ranking.probability import log_probabilities
from service.ranking.user_request import ask_model, read_user
from service.release.loaded import LoadedRelease


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
