"""What the next release can keep of the one that is served: the embeddings of items that say what they said before.

N: items, D: embedding width, V: D + popularity dimensions
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from embedder_cache.catalogue.intake import Intake
from twotower.artefacts.bundle import read_table
from twotower.artefacts.release import CONTENT, ITEMS, VECTORS, verify_release
from twotower.data.features import Ints
from twotower.errors import ArtefactError
from twotower.model.catalogue import ID_FIELD
from twotower.progress import say


@dataclass(frozen=True, slots=True)
class Kept:
    """Where the embedding of each item stands already."""

    rows_N: Ints  # in `vectors`; -1 where the item is new or has changed
    vectors: npt.NDArray[np.float32]  # [M, V] of the served release; only the first D columns are embeddings
    num_gone: int  # of its items, those that are not in the catalogue any more


def kept_embeddings(intake: Intake, served: Path | None, vector_space_id: str) -> Kept:
    """What can be kept of the release served; nothing when there is none, when its embedder was another, or it is damaged."""
    nothing = Kept(np.full(len(intake.item_ids), -1), np.zeros((0, 0), np.float32), 0)
    if served is None:
        return nothing
    try:
        _, info = verify_release(served)
    except (ArtefactError, OSError) as error:
        say(f"  the release served now is damaged, so every item is embedded again: {error}")
        return nothing
    before = read_table(served / ITEMS).column(ID_FIELD).combine_chunks()
    rows_N = pc.index_in(intake.item_ids, before).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    num_gone = len(before) - int(np.count_nonzero(rows_N >= 0))
    if info.vector_space_id != vector_space_id:
        return Kept(nothing.rows_N, nothing.vectors, num_gone)
    content_M = np.load(served / CONTENT, mmap_mode="r")
    same_N = (rows_N >= 0) & (content_M[rows_N] == intake.content_N)
    return Kept(np.where(same_N, rows_N, -1), np.load(served / VECTORS, mmap_mode="r"), num_gone)
