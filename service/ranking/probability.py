"""The probability of an item to come next: an exact softmax over the whole catalogue.

Q: queries, N: items, S: items scored at once, R: requested rows, V: vector width, M: past items of one query
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from service.model.reader import UserQuery
from service.release.loaded import LoadedRelease
from twotower.data.features import Floats, Ints

Float64s = npt.NDArray[np.float64]

_SCORED_AT_ONCE = 65_536


@torch.inference_mode()
def log_normalisers(release: LoadedRelease, queries: Sequence[UserQuery]) -> Float64s:
    """log of the sum over all items of exp(score), [Q]. The scores of past items include their repeat scores."""
    queries_QV = torch.from_numpy(np.stack([query.query_V for query in queries]))
    total_Q = torch.full((len(queries),), -torch.inf, dtype=torch.float64)
    listed_N = torch.from_numpy(release.listed())
    added = [] if release.added is None else [release.added.vectors_AV]
    start = 0
    for part_SV in (rows for vectors in [release.vectors_NV, *added] for rows in torch.split(vectors, _SCORED_AT_ONCE)):
        stop = start + len(part_SV)
        scores_QS = queries_QV @ part_SV.T
        place_past_items(scores_QS.numpy(), np.arange(start, stop), queries)
        scores_QS[:, ~listed_N[start:stop]] = -torch.inf
        total_Q = torch.logaddexp(total_Q, torch.logsumexp(scores_QS.double(), 1))
        start = stop
    return total_Q.numpy()


def log_probabilities(release: LoadedRelease, queries: Sequence[UserQuery], rows_R: Ints) -> Float64s:
    """Natural logs of the probabilities of some rows to come next, [Q, R]. The probabilities of all rows add up to 1.

    The rows must be distinct and ascending.
    """
    scores_QR = np.stack([query.query_V for query in queries]) @ release.vectors(rows_R).numpy().T
    place_past_items(scores_QR, rows_R, queries)
    return np.asarray(scores_QR.astype(np.float64) - log_normalisers(release, queries)[:, None])


def place_past_items(scores_QR: Floats, rows_R: Ints, queries: Sequence[UserQuery]) -> None:
    """Overwrite the scores of past items with their full scores. The rows must be distinct and ascending; there may be none."""
    if not len(rows_R):  # all items that were put have been deleted again
        return
    for scores_R, query in zip(scores_QR, queries, strict=True):
        place_M = np.searchsorted(rows_R, query.past_rows_M).clip(max=len(rows_R) - 1)
        here_M = rows_R[place_M] == query.past_rows_M
        scores_R[place_M[here_M]] = query.past_scores_M[here_M]
