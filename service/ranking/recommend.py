"""POST /v1/recommend: answers several requests at once from one release. Everything here runs on the engine's thread.

Q: requests, V: vector width, M: past items of one
"""

from collections.abc import Sequence

import numpy as np

from service.api.errors import ApiError
from service.api.schemas import RecommendRequest
from service.model.reader import UserQuery
from service.ranking.arrangement import Found, Search
from service.ranking.queries import queries_of
from service.ranking.rules import Prepared, Ranking, build_ranking, prepare
from service.ranking.user_request import UserRequest
from service.release.loaded import LoadedRelease, merged
from service.states.cache import UserCache


def recommend_many(
    release: LoadedRelease, batch: Sequence[UserRequest[RecommendRequest]], cache: UserCache
) -> list[Ranking | Exception]:
    """The ranking for each request, or its error. User states are cached in `release.users`."""
    answers: dict[int, Ranking | Exception] = {}  # by place in the batch
    wanted: dict[int, Prepared] = {}
    for place, user_request in enumerate(batch):
        try:
            prepared = prepare(release, user_request)
        except ApiError as error:
            answers[place] = error
        else:
            if user_request.request.validate_only:
                answers[place] = build_ranking(release, prepared, None)
            else:
                wanted[place] = prepared
    num_others = [p.searches[0].k if p.searches[0].allowed_N is None else 0 for p in wanted.values()]
    inputs = [p.input for p in wanted.values()]
    queries = queries_of(release, [batch[place].key for place in wanted], inputs, cache, num_others)
    found = search(release, list(wanted.values()), queries)
    answers |= {place: build_ranking(release, p, mine) for (place, p), mine in zip(wanted.items(), found, strict=True)}
    return [answers[place] for place in range(len(batch))]


def search(release: LoadedRelease, prepared: Sequence[Prepared], queries: Sequence[UserQuery]) -> list[list[Found]]:
    """The results of every search of each request, best first; equal scores by the lower row.

    The index does not know the repeat score of past items. So past items are scored separately, and the index is searched for
    other items. A result is shorter than requested only when fewer items are allowed.
    """
    found: list[list[Found]] = [[] for _ in prepared]
    free = [q for q, p in enumerate(prepared) if p.searches[0].allowed_N is None]
    others = {q: known for q in free if (known := queries[q].others) is not None}  # the reader has searched already
    if left := [q for q in free if q not in others]:
        queries_QV, without = np.stack([queries[q].query_V for q in left]), [queries[q].past_rows_M for q in left]
        others |= zip(left, release.search_many(queries_QV, max(prepared[q].searches[0].k for q in left), without), strict=True)
    for q in free:
        (rows, scores), mine = others[q], queries[q]
        found[q].append(merged((rows, mine.past_rows_M), (scores, mine.past_scores_M), prepared[q].searches[0].k))
    for q, p in enumerate(prepared):
        found[q] += [search_allowed(release, wanted, queries[q]) for wanted in p.searches if wanted.allowed_N is not None]
    return found


def search_allowed(release: LoadedRelease, wanted: Search, query: UserQuery) -> Found:
    """The best allowed items for one search with a mask."""
    assert wanted.allowed_N is not None, "searches without a mask are done together"
    past_M, others_N = wanted.allowed_N[query.past_rows_M], wanted.allowed_N.copy()
    others_N[query.past_rows_M] = False
    rows, scores = release.search(query.query_V[None], wanted.k, others_N)
    return merged((rows, query.past_rows_M[past_M]), (scores, query.past_scores_M[past_M]), wanted.k)
