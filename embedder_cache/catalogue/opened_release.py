"""A published release as the nightly job reads it: hashed once when it is opened, each part read once at its first use.

N: items, V: vector width
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from embedder_cache.catalogue.demand import Shares, demand
from twotower.artefacts.bundle import Towers, load_towers, read_table
from twotower.artefacts.cache import fetch
from twotower.artefacts.manifest import Manifest
from twotower.artefacts.release import GOLDEN, ITEMS, VECTORS, ReleaseInfo, read_info, read_release_manifest, verify_release
from twotower.artefacts.store import LocalStore, Store
from twotower.data.features import Floats
from twotower.errors import ArtefactError
from twotower.model.catalogue import ID_FIELD
from twotower.model.golden import GoldenQuery


@dataclass(frozen=True)
class OpenedRelease:
    """Item table and vectors stay on disk.

    A damaged release has `damage` in place of a manifest. Its items and golden queries may still be looked at, if they can be
    read, because a count of items is better than none; its vectors and towers must not be used.
    """

    path: Path
    manifest: Manifest | None
    damage: ArtefactError | OSError | None = None

    def verified(self) -> "OpenedRelease":
        """This release; raises its damage, if it has any."""
        if self.damage is not None:
            raise self.damage
        return self

    @cached_property
    def info(self) -> ReleaseInfo:
        """release.json; ReleaseMismatch when it cannot be read."""
        return read_info(self.path)

    @cached_property
    def towers(self) -> Towers:
        """Both towers; EnvironmentProblem when the embedder is a user's own and the operator has not named it."""
        assert self.manifest is not None, "the towers of a damaged release are never loaded"
        return load_towers(self.path, self.manifest)

    @cached_property
    def items(self) -> pa.Table:
        """The item table, memory-mapped."""
        return read_table(self.path / ITEMS)

    @cached_property
    def item_ids(self) -> pa.Array:
        """Item ids in the order of their rows, [N]."""
        return self.items.column(ID_FIELD).combine_chunks()

    @cached_property
    def vectors_NV(self) -> Floats:
        """Item vectors with popularity and signals, memory-mapped copy-on-write because torch refuses a read-only map."""
        vectors_NV: Floats = np.load(self.path / VECTORS, mmap_mode="c", allow_pickle=False)
        return vectors_NV

    @cached_property
    def golden(self) -> list[GoldenQuery]:
        """The golden queries with the answers that the release promised."""
        return msgspec.json.decode((self.path / GOLDEN).read_bytes(), type=list[GoldenQuery])

    @cached_property
    def demand_N(self) -> Shares:
        """Each item's share of demand when the release was made, by its first popularity dimension."""
        return demand(self.vectors_NV[:, self.towers.config.model.width])

    def label(self, row: int) -> str | None:
        """What a person knows an item by: its title, or else its first text or category that is there."""
        columns = self.towers.schema.items
        readable = [name for kind in ("text", "categorical") for name, k in columns.features.items() if k == kind]
        for name in [columns.title, *readable]:
            if name is not None and (value := self.items.column(name)[row].as_py()) is not None:
                return str(value)
        return None


def open_release(store: Store, release: str) -> OpenedRelease:
    """A release of the store with every file hashed once; StoreError when the store does not have it.

    The copy of a release in a bucket is hashed when it is fetched, and ArtefactError is raised when it is not to be had whole.
    """
    path = fetch(store, release)
    if not isinstance(store, LocalStore):
        return OpenedRelease(path, read_release_manifest(path))
    try:
        return OpenedRelease(path, verify_release(path)[0])
    except (ArtefactError, OSError) as error:
        return OpenedRelease(path, None, error)
