"""A store of two releases, for tests of what is done with published ones."""

import shutil
from pathlib import Path

import pytest

from embedder_cache.build import build_release
from twotower.artefacts.bundle import load_bundle


@pytest.fixture(scope="session")
def published(tiny_shop: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("published")
    for events in (None, tiny_shop / "events.parquet"):
        build_release(load_bundle(tiny_bundle), tiny_shop / "items.parquet", store, events)
    return store


@pytest.fixture
def store(published: Path, tmp_path: Path) -> Path:
    """Two releases; the second is current and knows of events. A copy of the test's own."""
    return Path(shutil.copytree(published, tmp_path, dirs_exist_ok=True))
