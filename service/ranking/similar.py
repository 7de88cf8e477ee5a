"""POST /v1/similar: items whose vectors are like that of another item. With a user, the model ranks the most similar ones.

Everything here runs on the engine's thread.

D: item vector width, N: items
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.api.errors import ApiError
from service.api.schemas import Feature, Recommended, SimilarRequest
from service.ranking.allowed import mask_of, rules
from service.ranking.arrangement import Search, pairs
from service.ranking.promotions import Pick
from service.ranking.queries import queries_of
from service.ranking.recommend import search_allowed
from service.ranking.rules import check_metadata, present
from service.ranking.user_request import UserRequest, read_input
from service.release.filters import Mask
from service.release.loaded import LoadedRelease, similar
from service.states.cache import UserCache
from twotower.data.features import Floats
from twotower.data.raw_items import item_table
from twotower.errors import DataError
from twotower.model.catalogue import embed_table

SIMILAR_POOL = 100  # items similar enough to be ranked for a user


@dataclass(frozen=True, slots=True)
class SimilarItems:
    """Items similar to another one, and notes for `degraded`."""

    items: list[Recommended]
    degraded: list[str]


def similar_many(
    release: LoadedRelease, batch: Sequence[UserRequest[SimilarRequest]], cache: UserCache
) -> list[SimilarItems | Exception]:
    """Similar items for each request, or its error: an unknown item, or features that cannot be used."""
    answers: list[SimilarItems | Exception] = []
    for user_request in batch:
        try:
            answers.append(find_similar(release, user_request, cache))
        except ApiError as error:
            answers.append(error)
    return answers


def find_similar(release: LoadedRelease, user_request: UserRequest[SimilarRequest], cache: UserCache) -> SimilarItems:
    """Items similar to the one of a request. With a user, the most similar ones are ranked by the model's score for that user."""
    request = user_request.request
    check_metadata(release, request.include_metadata)
    mask_N, notes = rules(release, request.filter, request.exclude_item_ids)
    vector_D = vector_of(release, request, mask_N)
    if request.user_id is None and not request.events:
        rows, scores = similar(release, vector_D, request.num_results, mask_N)
    else:
        pool, _ = similar(release, vector_D, max(request.num_results, SIMILAR_POOL), mask_N)
        model_input = read_input(release, user_request)
        notes += model_input.degraded
        (query,) = queries_of(release, [user_request.key], [model_input], cache)
        rows, scores = search_allowed(release, Search(request.num_results, mask_of(release, pool)), query)
    return SimilarItems(present(release, [Pick(*pair) for pair in pairs(rows, scores)], request.include_metadata), notes)


def vector_of(release: LoadedRelease, request: SimilarRequest, mask_N: Mask) -> Floats:
    """The vector [D] of a request's item. If the catalogue has the item, it is removed from the mask."""
    if request.item_id is None:
        return embed_item(release, request.item or {})
    if request.item_id not in release.rows:
        message = f"the catalogue has no item {request.item_id!r}; describe it in `item` instead"
        raise ApiError("not_found", message, "item_id")
    row = release.rows[request.item_id]
    mask_N[row] = False
    return np.asarray(release.vectors(np.array([row]))[0, : release.towers.config.model.width].numpy())


def embed_item(release: LoadedRelease, item: dict[str, Feature]) -> Floats:
    """The vector [D] of an item described by raw features. A feature that is not given is missing."""
    model = release.towers.config.model
    row, unusable = item_table([item], release.items.schema)
    if unusable:
        raise ApiError("invalid_request", str(unusable[0]), f"item.{unusable[0].name}") from unusable[0]
    try:
        vector_1D = embed_table(row, release.towers.embedder, model.item_spec, model.table_rows)
    except DataError as error:
        raise ApiError("invalid_request", str(error), "item") from error
    return np.asarray(vector_1D[0], np.float32)
