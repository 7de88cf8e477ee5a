"""The embeddings that the next release can keep from the one that is served: those of items whose features are unchanged.

N: items, D: embedding width, V: D + popularity dimensions
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedder_cache.catalogue.intake import Intake
from embedder_cache.catalogue.opened_release import OpenedRelease
from twotower.data.features import Ints, rows_of
from twotower.progress import say


@dataclass(frozen=True, slots=True)
class Kept:
    """Embeddings of the served release that can be kept, and where each item's stands."""

    rows_N: Ints  # row of each item in `vectors`; -1 where the item is new or has changed
    vectors: npt.NDArray[np.float32]  # [M, V] of the served release; only the first D columns are embeddings
    num_gone: int  # items of the served release that the catalogue no longer has


def kept_embeddings(intake: Intake, served: OpenedRelease | None, vector_space_id: str, by_content: bool) -> Kept:
    """The embeddings that can be kept: none without a served release, when it is damaged, or when it was embedded otherwise.

    That is by another embedder, or with the ids of the items where these are embedded without them, or the other way round.
    """
    nothing = Kept(np.full(len(intake.item_ids), -1), np.zeros((0, 0), np.float32), 0)
    if served is None:
        return nothing
    if served.damage is not None:
        say(f"  the release served now is damaged, so every item is embedded again: {served.damage}")
        return nothing
    before = served.item_ids
    rows_N = np.arange(len(before)) if intake.item_ids.equals(before) else rows_of(intake.item_ids, before)
    num_gone = len(before) - int(np.count_nonzero(rows_N >= 0))
    if (served.info.vector_space_id, served.info.by_content) != (vector_space_id, by_content):
        return Kept(nothing.rows_N, nothing.vectors, num_gone)
    same_N = (rows_N >= 0) & (served.content_N[rows_N] == intake.content_N)
    return Kept(np.where(same_N, rows_N, -1), served.vectors_NV, num_gone)
