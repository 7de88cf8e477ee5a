"""Every kind of embedder from files to a release, image vectors and missing ones included."""

from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedder_cache.build import build_release
from tests.training.conftest import TINY
from training.run.run import run
from twotower.artefacts.bundle import Bundle, load_bundle
from twotower.artefacts.release import release_path
from twotower.data.features import Floats
from twotower.data.schema import load_schema
from twotower.errors import EnvironmentProblem
from twotower.model.catalogue import embed_rows, encode_items, stream_items
from twotower.model.embedder import MlpEmbedder
from twotower.model.kinds import KINDS, TRUST_VARIABLE


class Mine(MlpEmbedder):
    """A user's own."""


MINE = f"{__name__}:Mine"


@pytest.fixture(scope="module", params=[*KINDS, MINE])
def bundle(request: pytest.FixtureRequest, tiny_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kind") / "bundle"
    config = msgspec.structs.replace(TINY, embedder=request.param, evaluations=0)
    run(config, tiny_shop / "events.parquet", tiny_shop / "items.parquet", load_schema(tiny_shop / "schema.toml"), out)
    return out


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, MINE)


def vectors_of(bundle: Bundle, items: pa.Table, path: Path) -> Floats:
    """Item vectors [N, D] of a table written to `path`."""
    pq.write_table(items, path)
    towers = bundle.towers
    model = towers.config.model
    (table,) = stream_items(path, towers.schema.items)
    vectors_ND: Floats = embed_rows(towers.embedder, encode_items(table, model.item_spec, model.table_rows)).numpy()
    return vectors_ND


def with_images(items: pa.Table, images: list[list[float] | None]) -> pa.Table:
    place = items.column_names.index("image")
    return items.set_column(place, "image", pa.array(images, pa.list_(pa.float32())))


def test_a_release_is_published_from_it(bundle: Path, tiny_shop: Path, tmp_path: Path) -> None:
    published = build_release(load_bundle(bundle), tiny_shop / "items.parquet", tmp_path / "store", None)
    vectors_NV = np.load(release_path(tmp_path / "store", published.release) / "vectors.npy")
    images = pq.read_table(tiny_shop / "items.parquet")["image"].to_pylist()
    missing = np.array([image is None for image in images])
    assert 10 < missing.sum() < len(images) / 2, "both cases are there"
    assert np.isfinite(vectors_NV).all()
    assert len(np.unique(vectors_NV, axis=0)) == len(images), "no two items alike"


def test_the_image_is_part_of_the_item(bundle: Path, tiny_shop: Path, tmp_path: Path) -> None:
    loaded, items = load_bundle(bundle), pq.read_table(tiny_shop / "items.parquet").slice(0, 3)
    first, second, none = (
        vectors_of(loaded, with_images(items, [image] * 3), tmp_path / f"{n}.parquet")
        for n, image in enumerate(([1.0] + [0.0] * 7, [0.0] * 7 + [1.0], None))
    )
    for one, other in ((first, second), (first, none), (second, none)):
        assert (np.abs(one - other).max(1) > 1e-4).all()


def test_an_image_that_cannot_be_read_counts_as_missing(bundle: Path, tiny_shop: Path, tmp_path: Path) -> None:
    """Of another length, with a NaN, or all zeros: a direction is all that is read of a vector, and these have none."""
    loaded, items = load_bundle(bundle), pq.read_table(tiny_shop / "items.parquet").slice(0, 3)
    broken = with_images(items, [[1.0, 2.0], [float("nan")] * 8, [0.0] * 8])
    expected = vectors_of(loaded, with_images(items, [None] * 3), tmp_path / "missing.parquet")
    np.testing.assert_array_equal(vectors_of(loaded, broken, tmp_path / "broken.parquet"), expected)


def test_the_kind_and_its_budget_are_recorded(bundle: Path, request: pytest.FixtureRequest) -> None:
    loaded = load_bundle(bundle)
    assert loaded.towers.config.model.embedder == request.node.callspec.params["bundle"]
    assert loaded.metrics["parameters"]["embedder_share"] == pytest.approx(TINY.embedder_share, rel=0.01)


def test_only_a_users_own_needs_to_be_named_again(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = load_bundle(bundle).towers.config.model.embedder
    monkeypatch.delenv(TRUST_VARIABLE)
    if kind in KINDS:
        load_bundle(bundle)
    else:
        with pytest.raises(EnvironmentProblem, match=f"{TRUST_VARIABLE}={MINE}"):
            load_bundle(bundle)
