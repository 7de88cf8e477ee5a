"""A night that changed little: the files of the served release are linked, and the changed items are written as one part more.

See `twotower.artefacts.parts` for what such a release holds.

N: items, n: items of a batch, D: embedding width, V: D + popularity dimensions
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from embedder_cache.catalogue.intake import Intake, sound_items
from embedder_cache.catalogue.opened_release import OpenedRelease
from embedder_cache.embedding.item_files import ItemFiles, write_items
from embedder_cache.embedding.local_engine import Engine
from embedder_cache.embedding.unchanged_items import Kept
from twotower.artefacts.bundle import Bundle
from twotower.artefacts.parts import put_together
from twotower.artefacts.release import CONTENT, ITEMS, POPULARITY, ROWS, VECTORS, part_names
from twotower.data.features import Floats, Ints
from twotower.tables.ids import Mask

MOST_PARTS = 32
LEAST_BYTES = 16 << 20  # of all vectors; what is smaller is written in no time, and then shares no file with another release


@dataclass(frozen=True, slots=True)
class Patch:
    """What the new release takes from the served one, and which items are written."""

    served: OpenedRelease
    rows_N: Ints  # where each item of the new release stands in all its parts taken together
    fresh_N: Mask
    num_parts: int

    def write(
        self,
        engine: Engine,
        bundle: Bundle,
        items: Path,
        directory: Path,
        intake: Intake,
        popularity_NP: Floats,
        on_items: Callable[[int], None],
    ) -> int:
        """Link the parts of the served release and write the new one. Returns how many items were embedded."""
        before = self.served.info.part_files
        for old, new in zip(before, part_names(len(before)), strict=True):
            for old_name, new_name in zip(old, new, strict=True):
                link(self.served.path / old_name, directory / new_name)
        num_fresh = int(np.count_nonzero(self.fresh_N))
        if num_fresh:
            files = ItemFiles.within(directory, part_names(self.num_parts)[-1])
            batches = self._fresh(engine(bundle, items, intake, self.fresh_N), on_items)
            popularity, content = popularity_NP[self.fresh_N], intake.content_N[self.fresh_N]
            with files.vectors.open("wb") as file:
                width = bundle.towers.config.model.width
                write_items(files, file, batches, popularity, content, width, lambda *_: None, lambda _: None)
        else:
            on_items(len(intake.item_ids))
        return num_fresh

    def _fresh(
        self, batches: Iterator[tuple[pa.Table, slice, Floats]], on_items: Callable[[int], None]
    ) -> Iterator[tuple[pa.Table, slice, Floats]]:
        """Of all batches, the fresh items with their place among these."""
        done = 0
        for table, place, vectors_nD in batches:
            if len(vectors_nD):
                yield table.filter(pa.array(self.fresh_N[place])), slice(done, done + len(vectors_nD)), vectors_nD
                done += len(vectors_nD)
            on_items(len(table))

    def vectors(self, directory: Path, popularity_NP: Floats) -> Floats:
        """All vectors [N, V] of the new release, in memory."""
        return put_together(directory, part_names(self.num_parts), self.rows_N, popularity_NP)

    def finish(self, directory: Path, popularity_NP: Floats) -> int:
        """Write where the items stand, and their popularity. Returns the number of parts, which is 0 if the release is whole."""
        if self.num_parts == 1 and self._is_first_part(directory, popularity_NP):
            for part, whole in zip(part_names(1)[0], (VECTORS, ITEMS, CONTENT), strict=True):
                (directory / part).rename(directory / whole)
            return 0
        np.save(directory / ROWS, self.rows_N.astype(np.uint32))
        np.save(directory / POPULARITY, popularity_NP)
        return self.num_parts

    def _is_first_part(self, directory: Path, popularity_NP: Floats) -> bool:
        """Whether the release has the items, vectors and popularity of its first part, in their order."""
        first_MV = np.load(directory / part_names(1)[0][0], mmap_mode="r", allow_pickle=False)
        if len(first_MV) != len(self.rows_N) or not np.array_equal(self.rows_N, np.arange(len(first_MV))):
            return False
        tail_MP = np.ascontiguousarray(first_MV[:, first_MV.shape[1] - popularity_NP.shape[1] :])
        return np.array_equal(tail_MP.view(np.uint32), np.ascontiguousarray(popularity_NP).view(np.uint32))


def patch_on(
    served: OpenedRelease | None,
    bundle: Bundle,
    items: Path,
    intake: Intake,
    kept: Kept,
    num_popularity: int,
    most: float,
) -> Patch | None:
    """How to publish tonight's items as a part more of the served release.

    None when there is no release to build on, or its items have other columns, or of the items a share of more than `most` would
    stand in later parts, or stand in the first one for nothing.
    """
    fresh_N = kept.rows_N < 0
    if served is None or fresh_N.all() or served.info.vector_width != bundle.towers.config.model.width + num_popularity:
        return None
    before_M, num_rows = served.rows, sum(served.part_lengths)
    num_parts = len(served.part_lengths) + bool(fresh_N.any())
    rows_N = np.where(fresh_N, num_rows + np.cumsum(fresh_N) - 1, before_M[kept.rows_N])
    num_rows += int(np.count_nonzero(fresh_N))
    num_late, num_dead = num_rows - served.part_lengths[0], num_rows - len(rows_N)
    if max(num_late, num_dead) > most * len(rows_N) or num_parts > MOST_PARTS:
        return None
    if 4 * served.info.vector_width * len(rows_N) < LEAST_BYTES:
        return None
    first, _ = next(sound_items(items, bundle.towers.schema.items, intake))
    return Patch(served, rows_N, fresh_N, num_parts) if first.schema.equals(served.items.schema) else None


def link(source: Path, target: Path) -> None:
    """Give a file of a release, which is never changed, a second name; or copy it, where the file system has no links."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
