"""A release as the drift report reads it.

N: items, V: vector width
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from embedder_cache.drift.demand import Shares, demand
from twotower.artefacts.bundle import Towers, load_towers, read_table
from twotower.artefacts.release import ITEMS, VECTORS, ReleaseInfo, read_info
from twotower.data.features import Floats
from twotower.model.catalogue import ID_FIELD


@dataclass(frozen=True, slots=True)
class Opened:
    """Item table and vectors stay on disk."""

    path: Path
    info: ReleaseInfo
    towers: Towers
    items: pa.Table
    item_ids: pa.Array
    vectors_NV: Floats
    demand_N: Shares

    def label(self, row: int) -> str | None:
        """What a person knows an item by: its title, or else its first text or category that is there."""
        columns = self.towers.schema.items
        readable = [name for kind in ("text", "categorical") for name, k in columns.features.items() if k == kind]
        for name in [columns.title, *readable]:
            if name is not None and (value := self.items.column(name)[row].as_py()) is not None:
                return str(value)
        return None


def open_release(path: Path) -> Opened:
    """A release that has been verified."""
    towers, items = load_towers(path), read_table(path / ITEMS)
    vectors_NV = np.load(path / VECTORS, mmap_mode="c")  # torch refuses a read-only map
    demand_N = demand(vectors_NV[:, towers.config.model.width])
    return Opened(path, read_info(path), towers, items, items.column(ID_FIELD).combine_chunks(), vectors_NV, demand_N)
