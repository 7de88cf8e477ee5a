"""Items like another: by their vectors, or, with a user, those of them that the model ranks first."""

import numpy as np

from service.api.errors import ApiError
from service.api.schemas import Feature, Recommended, SimilarRequest
from service.histories.history import UserHistory
from service.ranking.allowed import mask_of, rules
from service.ranking.arrangement import pairs
from service.ranking.promotions import Pick
from service.ranking.rules import check_metadata, present
from service.ranking.user_request import ask_model, read_user
from service.release.golden import best
from service.release.loaded import LoadedRelease, similar
from twotower.data.features import Floats
from twotower.data.raw_items import item_table
from twotower.errors import DataError
from twotower.model.catalogue import embed_table

SIMILAR_POOL = 100  # items similar enough to be ranked for a user


def find_similar(
    release: LoadedRelease, asked: SimilarRequest, stored: UserHistory, now_ms: int
) -> tuple[list[Recommended], list[str]]:
    """Items like the one asked about, and notes for `degraded`; ApiError for an unknown item or unusable features.

    With a user they are the most similar ones, ranked by the model's score for that user.
    """
    check_metadata(release, asked.include_metadata)
    mask, notes = rules(release, asked.filter, asked.exclude_item_ids)
    if asked.item_id is not None:
        if asked.item_id not in release.rows:
            raise ApiError("not_found", f"the catalogue has no item {asked.item_id!r}; describe it in `item` instead", "item_id")
        row = release.rows[asked.item_id]
        mask[row] = False
        vector_D = release.vectors(np.array([row]))[0, : release.towers.config.model.width].numpy()
    else:
        vector_D = embed_item(release, asked.item or {})
    if asked.user_id is None and not asked.events:
        rows, scores = similar(release, vector_D, asked.num_results, mask)
    else:
        pool, _ = similar(release, vector_D, max(asked.num_results, SIMILAR_POOL), mask)
        queries = ask_model(release, [read_user(release, asked, stored, now_ms).request])
        rows, scores = best(release, queries, asked.num_results, mask_of(release, pool))
    return present(release, [Pick(*pair) for pair in pairs(rows, scores)], asked.include_metadata), notes


def embed_item(release: LoadedRelease, item: dict[str, Feature]) -> Floats:
    """The vector [D] of an item given by raw features; what is not given is missing."""
    model = release.towers.config.model
    row, unusable = item_table([item], release.items.schema)
    if unusable:
        raise ApiError("invalid_request", str(unusable[0]), f"item.{unusable[0].name}") from unusable[0]
    try:
        vector_1D = embed_table(row, release.towers.embedder, model.item_spec, model.table_rows)
    except DataError as error:
        raise ApiError("invalid_request", str(error), "item") from error
    return np.asarray(vector_1D[0], np.float32)
