"""Computes all places of a map with UMAP (McInnes, Healy & Melville 2018), which the extra `map` brings.

M: points, D: width of their vectors, K: neighbours
"""

import numpy as np

from twotower.data.features import Floats
from twotower.errors import EnvironmentProblem
from twotower.maps.neighbours import neighbours_of_each

SEED = 0
LEAST = 64  # points; of fewer, the two directions in which they differ most make the map
_NEIGHBOURS = 15
_EPOCHS, _EPOCHS_AGAIN = 200, 60  # from the start, and from places that were good last night
_PACE_AGAIN = 0.3


def fit_umap(units_MD: Floats, start_M2: Floats | None) -> Floats:
    """Places [M, 2] in no unit, beginning with `start_M2` if there is one. Equal arguments give equal places on one machine."""
    principal_M2 = principal(units_MD)
    if len(units_MD) < LEAST:
        return principal_M2
    import umap

    rows_MK, distances_MK = neighbours_of_each(units_MD, _NEIGHBOURS - 1)
    made = umap.UMAP(
        n_neighbors=_NEIGHBOURS,
        min_dist=0.1,
        metric="cosine",
        precomputed_knn=(rows_MK.astype(np.int32), distances_MK, None),
        init=principal_M2 if start_M2 is None else start_M2,
        n_epochs=_EPOCHS if start_M2 is None else _EPOCHS_AGAIN,
        learning_rate=1.0 if start_M2 is None else _PACE_AGAIN,
        random_state=SEED,
        n_jobs=1,
    )
    places_M2: Floats = made.fit_transform(units_MD)
    if not np.isfinite(places_M2).all():
        raise EnvironmentProblem("UMAP gave places that are no numbers")
    return places_M2


def principal(units_MD: Floats) -> Floats:
    """The vectors along the two directions in which they differ most, [M, 2]. Each direction points to its larger side."""
    centred_MD = units_MD - units_MD.mean(0)
    _, axes_DD = np.linalg.eigh(centred_MD.T @ centred_MD)
    axes_D2 = axes_DD[:, :-3:-1]
    signs_2 = np.sign(axes_D2[np.abs(axes_D2).argmax(0), [0, 1]])
    places_M2: Floats = (centred_MD @ (axes_D2 * signs_2)).astype(np.float32)
    return places_M2
