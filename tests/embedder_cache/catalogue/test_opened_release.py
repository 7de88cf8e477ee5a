"""A published release as the nightly job reads it."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from embedder_cache.catalogue.opened_release import OpenedRelease, open_release
from twotower.artefacts.bundle import write_table
from twotower.artefacts.release import ITEMS, VECTORS, read_pointer, read_release_manifest, release_path
from twotower.artefacts.store import LocalStore
from twotower.errors import IntegrityError


@pytest.fixture
def release(tiny_store: Path) -> OpenedRelease:
    return open_release(LocalStore(tiny_store), read_pointer(tiny_store).release)


def test_an_item_without_a_title_is_known_by_its_category_and_one_without_anything_by_nothing(
    release: OpenedRelease, tmp_path: Path
) -> None:
    """`tags` and `price` are no text."""
    items = pa.table({"title": ["tea", None, None], "department": ["aisle 1", "aisle 2", None], "price": [1.0, 2.0, 3.0]})
    path = Path(shutil.copytree(release.path, tmp_path / release.path.name))
    (path / ITEMS).unlink()
    write_table(path / ITEMS, items)
    named = OpenedRelease(path, read_release_manifest(path))
    assert [named.label(row) for row in range(3)] == ["tea", "aisle 2", None]


def test_vectors_stay_on_disk_and_demand_is_a_distribution(release: OpenedRelease) -> None:
    assert isinstance(release.vectors_NV, np.memmap)
    assert release.demand_N.sum() == pytest.approx(1)


def test_each_part_is_read_once(release: OpenedRelease) -> None:
    assert release.vectors_NV is release.vectors_NV
    assert release.towers is release.towers
    assert release.items is release.items


def test_a_damaged_release_keeps_its_items_and_raises_its_damage(tiny_store: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(tiny_store, tmp_path / "store"))
    current = read_pointer(store).release
    (release_path(store, current) / VECTORS).write_bytes(b"rotten")
    damaged = open_release(LocalStore(store), current)
    assert len(damaged.items) == 400
    with pytest.raises(IntegrityError, match=VECTORS):
        damaged.verified()
