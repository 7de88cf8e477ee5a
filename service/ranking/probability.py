"""How likely an item is to come next: a softmax over the whole catalogue, computed exactly.

Q: queries, N: items, S: items scored at once, R: rows asked about, V: vector width, M: past items of all queries
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.release.loaded import LoadedRelease
from twotower.data.features import Ints
from twotower.model.scoring import Queries

Float64s = npt.NDArray[np.float64]

_SCORED_AT_ONCE = 65_536


@torch.inference_mode()
def log_normalisers(release: LoadedRelease, queries: Queries) -> Float64s:
    """log of the sum over all items of exp(score), [Q]; the repeat scores of past items included."""
    total_Q = torch.full((len(queries.vectors_QV),), -torch.inf, dtype=torch.float64)
    listed_N = torch.from_numpy(release.listed())
    added = [] if release.added is None else [release.added.vectors_AV]
    start = 0
    for part_SV in (rows for vectors in [release.vectors_NV, *added] for rows in torch.split(vectors, _SCORED_AT_ONCE)):
        stop = start + len(part_SV)
        scores_QS = with_repeat(queries, queries.vectors_QV @ part_SV.T, torch.arange(start, stop))
        scores_QS[:, ~listed_N[start:stop]] = -torch.inf
        total_Q = torch.logaddexp(total_Q, torch.logsumexp(scores_QS.double(), 1))
        start = stop
    return total_Q.numpy()


@torch.inference_mode()
def log_probabilities(release: LoadedRelease, queries: Queries, rows: Ints) -> Float64s:
    """Natural logs of the probabilities of some rows to come next, [Q, R]. Over all rows they are those of one softmax."""
    scores_QR = queries.vectors_QV @ release.vectors(rows).T
    scores_QR = with_repeat(queries, scores_QR, torch.from_numpy(rows))
    result: Float64s = scores_QR.double().numpy() - log_normalisers(release, queries)[:, None]
    return result


def with_repeat(queries: Queries, scores_QR: Tensor, rows_R: Tensor) -> Tensor:
    """Scores of some rows, distinct and ascending, with what past items among them get on top."""
    place_M = torch.searchsorted(rows_R, queries.past_rows_M).clamp(max=len(rows_R) - 1)
    here_M = rows_R[place_M] == queries.past_rows_M
    scores_QR[queries.past_request_M[here_M], place_M[here_M]] += queries.repeat_M[here_M]
    return scores_QR
