"""A published release as the nightly job reads it: hashed once when it is opened, each part read once at its first use.

N: items, V: vector width
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import pyarrow as pa

from embedder_cache.catalogue.demand import Shares, demand
from twotower.artefacts.bundle import Towers, load_towers
from twotower.artefacts.cache import fetch
from twotower.artefacts.manifest import Digest, Manifest, sha256
from twotower.artefacts.parts import part_lengths, read_content, read_items, read_rows, read_vectors
from twotower.artefacts.release import GOLDEN, ReleaseInfo, read_info, read_release_manifest, verify_release
from twotower.artefacts.store import LocalStore, Store
from twotower.data.features import Floats, Hashes, Ints
from twotower.errors import ArtefactError
from twotower.model.catalogue import ID_FIELD
from twotower.model.golden import GoldenQuery


@dataclass(frozen=True)
class OpenedRelease:
    """Item table and vectors stay on disk, unless they are in parts, which are put together in memory.

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
        """The item table, memory-mapped if it is whole; ReleaseMismatch when its parts do not fit together."""
        return read_items(self.path, self.info)

    @cached_property
    def item_ids(self) -> pa.Array:
        """Item ids in the order of their rows, [N]."""
        return self.items.column(ID_FIELD).combine_chunks()

    @cached_property
    def vectors_NV(self) -> Floats:
        """Item vectors with popularity and signals, memory-mapped if they are whole."""
        return read_vectors(self.path, self.info)

    @cached_property
    def content_N(self) -> Hashes:
        """A hash of each item's features."""
        return read_content(self.path, self.info)

    @cached_property
    def rows(self) -> Ints:
        """Where each item stands in all parts taken together, [N]."""
        return read_rows(self.path, self.info)

    @cached_property
    def part_lengths(self) -> list[int]:
        """The number of rows of each part; one part when the items are whole."""
        return part_lengths(self.path, self.info)

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


def open_release(store: Store, release: str, digest: Digest = sha256) -> OpenedRelease:
    """A release of the store with every file hashed once; StoreError when the store does not have it.

    The copy of a release in a bucket is hashed when it is fetched, and ArtefactError is raised when it is not to be had whole.
    """
    path = fetch(store, release, digest=digest)
    if not isinstance(store, LocalStore):
        return OpenedRelease(path, read_release_manifest(path))
    try:
        return OpenedRelease(path, verify_release(path, digest=digest)[0])
    except (ArtefactError, OSError) as error:
        return OpenedRelease(path, None, error)
