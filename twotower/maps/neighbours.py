"""Exact nearest neighbours by cosine, which a map is made from.

Q: queries, N: vectors searched, D: width, K: neighbours
"""

import numpy as np
import torch

from twotower.data.features import Floats, Ints

_QUERIES_AT_ONCE = 512  # times 100,000 vectors: 200 MB of cosines


def unit_vectors(vectors_ND: Floats) -> Floats:
    """The vectors scaled to length 1, which leaves a zero vector as it is."""
    norms_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    units_ND: Floats = np.asarray(vectors_ND / np.maximum(norms_N1, 1e-12), np.float32)
    return units_ND


def nearest(queries_QD: Floats, units_ND: Floats, k: int) -> tuple[Ints, Floats]:
    """Rows and cosines [Q, K] of the vectors nearest to each query, nearest first. All vectors have length 1."""
    k, units = min(k, len(units_ND)), torch.from_numpy(units_ND)
    rows_QK, cosines_QK = np.empty((len(queries_QD), k), np.int64), np.empty((len(queries_QD), k), np.float32)
    for start in range(0, len(queries_QD), _QUERIES_AT_ONCE):
        part = slice(start, start + _QUERIES_AT_ONCE)
        found = (torch.from_numpy(queries_QD[part]) @ units.T).topk(k, dim=1)
        rows_QK[part], cosines_QK[part] = found.indices.numpy(), found.values.numpy()
    return rows_QK, cosines_QK


def neighbours_of_each(units_ND: Floats, k: int) -> tuple[Ints, Floats]:
    """Rows and cosine distances [N, K + 1] of each vector itself, first and at distance 0, and of its k nearest others."""
    rows_NK, cosines_NK = nearest(units_ND, units_ND, k + 1)
    own_N1 = np.arange(len(units_ND))[:, None]
    # The vector itself is not always found first: others may equal it. It takes the first place, the farthest gives way.
    others_NK = rows_NK != own_N1
    others_NK[others_NK.all(1), -1] = False
    rows_NK = np.concatenate([own_N1, rows_NK[others_NK].reshape(len(rows_NK), -1)], 1)
    cosines_NK = np.concatenate([np.ones((len(rows_NK), 1), np.float32), cosines_NK[others_NK].reshape(len(rows_NK), -1)], 1)
    return rows_NK, np.maximum(1 - cosines_NK, 0)
