"""Diversity: makes the items of an answer less alike.

C: candidates, best first, D: item vector width, K: results
"""

import numpy as np

from twotower.data.features import Floats, Ints

POOL = 500  # candidates; the same number for every answer, so that a longer answer begins like a shorter one


def diversify(unit_vectors_CD: Floats, scores_C: Floats, diversity: float, k: int) -> Ints:
    """Places [K] of candidates chosen by maximal marginal relevance (Carbonell & Goldstein 1998). Each next place is

        argmax over i not chosen of (1 - diversity) * relevance(i) - diversity * max over j chosen of cosine(i, j)

    where relevance is the score, scaled to 0..1 over the candidates. The first choice has the best score; of equal ones, the
    earlier place is chosen.
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
    """Scores scaled so that the lowest is 0 and the highest is 1; all 0 when they are equal."""
    lowest = scores_C.min(initial=np.inf)
    span = scores_C.max(initial=-np.inf) - lowest
    return (scores_C - lowest) / span if span > 0 else np.zeros_like(scores_C)
