"""A bundle comes back as it was saved, or not at all."""

import json
import shutil
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn

from twotower.artefacts.bundle import (
    CONFIG,
    EMBEDDER,
    SCHEMA,
    BundleConfig,
    Towers,
    load_bundle,
    load_towers,
    read_config,
    vector_space_id,
)
from twotower.artefacts.manifest import read_manifest, refuse_existing, sha256
from twotower.errors import EnvironmentProblem, FormatError, IntegrityError, ReleaseMismatch
from twotower.model.config import ModelConfig
from twotower.model.embedder import MlpEmbedder
from twotower.model.kinds import TRUST_VARIABLE


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def towers_of(bundle: Path) -> Towers:
    """The towers of a bundle whose files may have been changed after its manifest was read."""
    return load_towers(bundle, read_manifest(bundle, "bundle"))


def rewrite_config(path: Path, config: BundleConfig) -> None:
    (path / CONFIG).write_bytes(msgspec.json.encode(config))


def test_weights_sizes_and_schema_survive(tiny_bundle: Path, tiny_shop: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    assert bundle.towers.config.model.width == 32
    assert (tiny_bundle / SCHEMA).read_text() == (tiny_shop / "schema.toml").read_text()
    assert bundle.towers.config.vector_space_id == vector_space_id(sha256(tiny_bundle / EMBEDDER), bundle.towers.config.model)
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
    config = towers_of(copy).config
    rewrite_config(copy, msgspec.structs.replace(config, vector_space_id="somebody else's"))
    with pytest.raises(ReleaseMismatch, match=EMBEDDER):
        towers_of(copy)


def test_a_schema_with_other_signals_than_the_model_is_refused(copy: Path) -> None:
    (copy / SCHEMA).write_text((copy / SCHEMA).read_text() + "\n[signals]\nfeatures = ['mailer']\n")
    with pytest.raises(ReleaseMismatch, match="0 signals"):
        towers_of(copy)


def test_features_of_another_version_are_refused(copy: Path) -> None:
    config = towers_of(copy).config
    spec = msgspec.structs.replace(config.model.item_spec, version=99)
    rewrite_config(copy, msgspec.structs.replace(config, model=msgspec.structs.replace(config.model, item_spec=spec)))
    with pytest.raises(FormatError, match="99"):
        towers_of(copy)


def test_towers_of_another_version_are_refused(copy: Path) -> None:
    """Those of before the hidden state met the item vectors do not name a version."""
    content = json.loads((copy / CONFIG).read_bytes())
    del content["model_version"]
    (copy / CONFIG).write_text(json.dumps(content))
    with pytest.raises(FormatError, match=r"towers of version 1, this program computes version 2\. Train the bundle again"):
        towers_of(copy)


class Mine(MlpEmbedder):
    """A user's own embedder."""


class Changed(MlpEmbedder):
    """What became of it since a bundle was trained with it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.more = nn.Linear(3, 3)


def renamed(path: Path, kind: str) -> None:
    """Make the bundle name another kind of embedder."""
    config = read_config(path)
    model = msgspec.structs.replace(config.model, embedder=kind)
    rewrite_config(
        path, msgspec.structs.replace(config, model=model, vector_space_id=vector_space_id(sha256(path / EMBEDDER), model))
    )


def test_a_users_embedder_is_rebuilt_where_the_operator_names_it(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed(copy, f"{__name__}:Mine")
    monkeypatch.setenv(TRUST_VARIABLE, f"{__name__}:Mine")
    assert type(towers_of(copy).embedder).__name__ == "Mine"


def test_code_that_only_the_bundle_names_is_not_imported(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)
    renamed(copy, "this:Zen")
    with pytest.raises(EnvironmentProblem, match="TWOTOWER_EMBEDDER=this:Zen"):
        towers_of(copy)
    assert "this" not in sys.modules


def test_a_module_that_is_not_there_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed(copy, "no_such_shop:Mine")
    monkeypatch.setenv(TRUST_VARIABLE, "no_such_shop:Mine")
    with pytest.raises(EnvironmentProblem, match="'no_such_shop' cannot be imported"):
        towers_of(copy)


def test_weights_that_do_not_fit_the_users_code_any_more_are_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed(copy, f"{__name__}:Changed")
    monkeypatch.setenv(TRUST_VARIABLE, f"{__name__}:Changed")
    with pytest.raises(FormatError, match="Bring back the code"):
        towers_of(copy)


def test_equal_weights_under_another_kind_are_another_space(tiny_bundle: Path) -> None:
    model = read_config(tiny_bundle).model
    other = msgspec.structs.replace(model, embedder=f"{__name__}:Mine")
    assert vector_space_id("0" * 64, model) != vector_space_id("0" * 64, other)


def test_a_bundle_is_never_overwritten(tiny_bundle: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="exists already"):
        refuse_existing(tiny_bundle)
