"""Row 15: a release whose parts were not made for each other is refused, though every hash is true."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from embedder_cache.build import build_release
from tests.service.conftest import Following, TwoReleases
from tests.service.faults.following import check_refused
from tests.service.release.test_loaded import CRAFTED, CRAFTED_INDEXES, reseal
from twotower.artefacts.bundle import load_bundle

Craft = Callable[[Path], None]


@pytest.fixture(scope="module")
def int8(published_two: TwoReleases, tiny_bundle: Path, tiny_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose second release has an index of its own."""
    directory = tmp_path_factory.mktemp("int8")
    shutil.copytree(published_two.store, directory / "store")
    pq.write_table(pq.read_table(tiny_shop / "items.parquet"), directory / "items.parquet")
    build_release(load_bundle(tiny_bundle), directory / "items.parquet", directory / "store", None, forced="a test", index="int8")
    return directory / "store"


@pytest.mark.faults
@pytest.mark.parametrize("craft", [*CRAFTED, *CRAFTED_INDEXES], ids=lambda craft: craft.__name__)
def test_parts_that_were_not_made_for_each_other_are_not_served(
    int8: Path, published_two: TwoReleases, tmp_path: Path, follow: Callable[..., Following], craft: Craft
) -> None:
    store = Path(shutil.copytree(int8, tmp_path / "store"))
    server = follow(store, published_two.first)
    reseal(store, craft)
    check_refused(server, "mismatch")
