"""Answers whose items are less alike.

C: candidates, best first, D: item vector width, K: results
"""

import numpy as np

from twotower.data.features import Floats, Ints

POOL = 500  # candidates: always as many, so that a longer answer, or the next page, begins as a shorter one does


def diversify(unit_vectors_CD: Floats, scores_C: Floats, diversity: float, k: int) -> Ints:
    """Places [K] of candidates by maximal marginal relevance (Carbonell & Goldstein 1998), the next one each time

        argmax over i not chosen of (1 - diversity) * relevance(i) - diversity * max over j chosen of cosine(i, j)

    with relevance the score, scaled to 0..1 over the candidates. The first is the best-scored; equals by the earlier place.
    """
    chosen: list[int] = []
    nearest_C = np.zeros(len(scores_C), np.float32)
    relevance_C = scaled(scores_C)
    while len(chosen) < min(k, len(scores_C)):
        worth_C = (1 - diversity) * relevance_C - diversity * nearest_C
        worth_C[chosen] = -np.inf
        chosen.append(int(worth_C.argmax()))
        cosine_C = unit_vectors_CD @ unit_vectors_CD[chosen[-1]]
        nearest_C = cosine_C if len(chosen) == 1 else np.maximum(nearest_C, cosine_C)
    return np.array(chosen, np.int64)


def scaled(scores_C: Floats) -> Floats:
    """Scores with the lowest at 0 and the highest at 1; all 0 when they are equal."""
    lowest = scores_C.min(initial=np.inf)
    span = scores_C.max(initial=-np.inf) - lowest
    return (scores_C - lowest) / span if span > 0 else np.zeros_like(scores_C)
