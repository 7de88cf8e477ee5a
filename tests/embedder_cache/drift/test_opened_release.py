"""What a person knows an item by."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from embedder_cache.drift.opened_release import Opened, open_release
from twotower.artefacts.release import read_pointer, release_path


@pytest.fixture
def release(tiny_store: Path) -> Opened:
    return open_release(release_path(tiny_store, read_pointer(tiny_store).release))


def test_an_item_without_a_title_is_known_by_its_category_and_one_without_anything_by_nothing(release: Opened) -> None:
    """`tags` and `price` are no text."""
    items = pa.table({"title": ["tea", None, None], "department": ["aisle 1", "aisle 2", None], "price": [1.0, 2.0, 3.0]})
    named = replace(release, items=items)
    assert [named.label(row) for row in range(3)] == ["tea", "aisle 2", None]


def test_vectors_stay_on_disk_and_demand_is_a_distribution(release: Opened) -> None:
    assert isinstance(release.vectors_NV, np.memmap)
    assert release.demand_N.sum() == pytest.approx(1)
