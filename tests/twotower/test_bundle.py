"""A bundle comes back as it was saved, or not at all."""

import shutil
from pathlib import Path

import msgspec
import pytest
import torch

from twotower.bundle import CONFIG, EMBEDDER, SCHEMA, BundleConfig, load_bundle, load_towers, vector_space_id
from twotower.errors import EnvironmentProblem, FormatError, IntegrityError, ReleaseMismatch
from twotower.manifest import refuse_existing


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def rewrite_config(path: Path, config: BundleConfig) -> None:
    (path / CONFIG).write_bytes(msgspec.json.encode(config))


def test_weights_sizes_and_schema_survive(tiny_bundle: Path, tiny_shop: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    assert bundle.towers.config.model.width == 32
    assert (tiny_bundle / SCHEMA).read_text() == (tiny_shop / "schema.toml").read_text()
    assert bundle.towers.config.vector_space_id == vector_space_id(tiny_bundle / EMBEDDER, bundle.towers.config.model)
    assert not bundle.towers.contextualizer.training
    assert bundle.popularity.column_names == ["item_id", "log_popularity"]
    assert all(torch.isfinite(p).all() for p in bundle.towers.embedder.parameters())


def test_a_flipped_bit_in_the_weights_is_refused(copy: Path) -> None:
    content = bytearray((copy / EMBEDDER).read_bytes())
    content[-1] ^= 1
    (copy / EMBEDDER).write_bytes(content)
    with pytest.raises(IntegrityError, match=EMBEDDER):
        load_bundle(copy)


def test_an_embedder_of_another_space_is_refused(copy: Path) -> None:
    config = load_towers(copy).config
    rewrite_config(copy, msgspec.structs.replace(config, vector_space_id="somebody else's"))
    with pytest.raises(ReleaseMismatch, match=EMBEDDER):
        load_towers(copy)


def test_features_of_another_version_are_refused(copy: Path) -> None:
    config = load_towers(copy).config
    spec = msgspec.structs.replace(config.model.item_spec, version=99)
    rewrite_config(copy, msgspec.structs.replace(config, model=msgspec.structs.replace(config.model, item_spec=spec)))
    with pytest.raises(FormatError, match="99"):
        load_towers(copy)


def test_a_bundle_is_never_overwritten(tiny_bundle: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="exists already"):
        refuse_existing(tiny_bundle)
