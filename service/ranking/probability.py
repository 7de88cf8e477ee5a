"""How likely an item is to come next: a softmax over the whole catalogue, computed exactly.

Q: queries, N: items, S: items scored at once, R: rows asked about, V: vector width, M: past items of all queries
"""

import numpy as np
import numpy.typing as npt
import torch

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
        scores_QS = queries.add_repeat_scores(queries.vectors_QV @ part_SV.T, torch.arange(start, stop))
        scores_QS[:, ~listed_N[start:stop]] = -torch.inf
        total_Q = torch.logaddexp(total_Q, torch.logsumexp(scores_QS.double(), 1))
        start = stop
    return total_Q.numpy()


@torch.inference_mode()
def log_probabilities(release: LoadedRelease, queries: Queries, rows: Ints) -> Float64s:
    """Natural logs of the probabilities of some rows to come next, [Q, R]. Over all rows they are those of one softmax."""
    scores_QR = queries.add_repeat_scores(queries.vectors_QV @ release.vectors(rows).T, torch.from_numpy(rows))
    result: Float64s = scores_QR.double().numpy() - log_normalisers(release, queries)[:, None]
    return result
