"""Golden queries: a release must still answer them as it did when it was built.

K: results, V: vector width
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from service.release.filters import Mask
from service.release.loaded import LoadedRelease, merged
from twotower.data.features import Floats, Ints
from twotower.errors import ReleaseMismatch
from twotower.index.kinds import EXACT
from twotower.model.golden import GoldenQuery, golden_request
from twotower.model.scoring import Queries, answer

GOLDEN_TOLERANCE = 1e-3  # of a score: kernels of another machine round differently, while a wrong vector differs by far more


APPROXIMATE_OVERLAP = 0.5  # the share of a golden answer that an approximate index must find; an index of other vectors finds ~0


def replay_golden_queries(release: LoadedRelease, golden: Sequence[GoldenQuery]) -> None:
    """ReleaseMismatch unless every golden query gets the answer that it got when the release was built.

    Two items may swap places if their scores differ by no more than rounding, and an approximate index may miss some items.
    """
    for query in golden:
        queries = _golden_request(release, query)
        rows, scores = best(release, queries, len(query.top_item_ids), None)
        dense_N = queries.dense_scores(release.vectors_NV)[0].numpy()
        promised = np.array(query.top_scores, np.float32)
        again = dense_N[[release.rows[i] for i in query.top_item_ids]]
        same = [release.item_ids[r] for r in rows] == query.top_item_ids
        near = len(scores) == len(promised) and is_near(again, promised)
        if release.info.index.kind in EXACT:
            found = is_near(scores, promised) and (same or has_near_ties(promised, dense_N))
        else:
            wanted = {release.rows[i] for i in query.top_item_ids}
            found = len(wanted.intersection(rows.tolist())) >= APPROXIMATE_OVERLAP * len(wanted)
        if not near or not found:
            raise ReleaseMismatch(
                f"{release.id} no longer gives its golden answer to a history of {len(query.item_ids)} events. "
                f"Publish it again with `twotower embed` of the same version as this server."
            )


def is_near(scores_K: Floats, promised_K: Floats) -> bool:
    """Whether scores equal the promised ones, up to the rounding of another machine."""
    return bool(np.abs(scores_K - promised_K).max(initial=0) <= GOLDEN_TOLERANCE)


def has_near_ties(scores_K: Floats, dense_N: Floats) -> bool:
    """Whether two neighbours among the best K + 1 items are so close that rounding could swap them."""
    ordered = np.sort(dense_N)[::-1][: len(scores_K) + 1]
    return bool((ordered[:-1] - ordered[1:] <= 2 * GOLDEN_TOLERANCE).any())


def _golden_request(release: LoadedRelease, query: GoldenQuery) -> Queries:
    config = release.towers.config.model
    if unknown := [i for i in (*query.item_ids, *query.top_item_ids) if i not in release.rows]:
        raise ReleaseMismatch(f"{release.id}: its golden queries name {unknown[0]!r}, its item table does not. Publish it again.")
    rows = np.array([release.rows[i] for i in query.item_ids], np.int64)
    times = np.array(query.times_ms, np.int64)
    request = golden_request(config, rows, times, query.now_ms)
    return answer(release.towers.contextualizer, config, release.vectors_NV, [request])


def best(release: LoadedRelease, queries: Queries, k: int, allowed_N: Mask | None) -> tuple[Ints, Floats]:
    """Rows and scores of the top k of one query by the full score, best first; equal scores by the lower row.

    The index does not know the repeat score of past items. So past items are scored separately, and the index is searched for
    other items. The answer is shorter than k only when fewer items are allowed.
    """
    past_rows = queries.past_rows_M.numpy()
    by_place = replace(queries, past_rows_M=torch.arange(len(past_rows)))
    past_scores = by_place.past_scores(release.vectors(past_rows)).numpy()
    others_N = allowed_N
    if len(past_rows):
        others_N = release.listed() if allowed_N is None else allowed_N.copy()
        others_N[past_rows] = False
    rows, scores = release.search(queries.vectors_QV.numpy(), k, others_N)
    mine = slice(None) if allowed_N is None else allowed_N[past_rows]
    return merged((rows, past_rows[mine]), (scores, past_scores[mine]), k)
