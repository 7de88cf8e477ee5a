"""POST /v1/score: how likely given items are to come next for a user. Everything here runs on the engine's thread."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.api.scores import ScoredItem, ScoreRequest
from service.model.reader import UserQuery
from service.ranking.allowed import known_rows
from service.ranking.probability import log_probabilities
from service.ranking.queries import queries_of
from service.ranking.user_request import ModelInput, UserRequest, read_input
from service.release.loaded import LoadedRelease
from service.states.cache import UserCache


@dataclass(frozen=True, slots=True)
class Scores:
    """Scored items, and facts about how they were scored."""

    items: list[ScoredItem]
    events_used: int
    events_ignored: int
    missing_item_ids: list[str]
    degraded: list[str]


def score_many(release: LoadedRelease, batch: Sequence[UserRequest[ScoreRequest]], cache: UserCache) -> list[Scores]:
    """The candidates of each request, most probable first; equal ones by the lower row."""
    inputs = [read_input(release, user_request) for user_request in batch]
    queries = queries_of(release, [user_request.key for user_request in batch], inputs, cache)
    requests = [user_request.request for user_request in batch]
    return [_scores(release, *parts) for parts in zip(requests, inputs, queries, strict=True)]


def _scores(release: LoadedRelease, request: ScoreRequest, model_input: ModelInput, query: UserQuery) -> Scores:
    rows = np.unique(np.array(known_rows(release, request.candidate_item_ids), np.int64))
    items: list[ScoredItem] = []
    if len(rows):
        (log_p_R,) = log_probabilities(release, [query], rows)
        order = np.argsort(-log_p_R, kind="stable")
        items = [ScoredItem(item_id=release.item_ids[rows[i]], log_probability=float(log_p_R[i])) for i in order]
    missing = model_input.missing(release, request.candidate_item_ids)
    return Scores(items, len(model_input.known_events), model_input.num_ignored, missing, list(model_input.degraded))
