"""The model bundle, a directory: both towers, their sizes, the schema, and popularity as of the end of training."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
from safetensors.torch import load_file, save_file
from torch import nn

from twotower.artefacts.manifest import Manifest, move_into_place, refuse_existing, seal, sha256, staging, verify_directory
from twotower.data.features import VERSION
from twotower.data.schema import Schema, dump_schema, load_schema
from twotower.errors import FormatError, ReleaseMismatch
from twotower.model.config import MODEL_VERSION, ModelConfig
from twotower.model.contextualizer import Contextualizer
from twotower.model.embedder import Embedder
from twotower.model.kinds import build_embedder, require_trust

KIND = "bundle"
EMBEDDER, CONTEXTUALIZER, CONFIG, SCHEMA = "embedder.safetensors", "contextualizer.safetensors", "config.json", "schema.toml"
POPULARITY, METRICS, PROVENANCE = "popularity.arrow", "metrics.json", "provenance.json"
TOWER_FILES = (EMBEDDER, CONTEXTUALIZER, CONFIG, SCHEMA)
METRIC = "inner_product"


class BundleConfig(msgspec.Struct, frozen=True, kw_only=True):
    """config.json: the sizes of the towers, and the id of the embedder's vector space."""

    model: ModelConfig
    popularity_half_lives_days: tuple[float, ...]
    vector_space_id: str
    model_version: int = 1  # of a bundle that does not name it

    @property
    def num_signals(self) -> int:
        """Number of signals: the last of the popularity dimensions."""
        return self.model.num_popularity - len(self.popularity_half_lives_days)


@dataclass(frozen=True, slots=True)
class Towers:
    """Both towers on the CPU in evaluation mode, and what they were built from. Shared by bundles and releases."""

    embedder: Embedder
    contextualizer: Contextualizer
    config: BundleConfig
    schema: Schema


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle."""

    path: Path
    manifest: Manifest
    towers: Towers
    popularity: pa.Table  # item_id, log_popularity (one float per half-life and signal), as of the end of training
    metrics: dict[str, Any]


def save_bundle(
    path: Path,
    embedder: nn.Module,
    contextualizer: nn.Module,
    model: ModelConfig,
    half_lives_days: tuple[float, ...],
    schema: Schema,
    popularity: pa.Table,
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Manifest:
    """Write a bundle to `path`, which must not exist. It appears there whole or not at all."""
    refuse_existing(path)
    with staging(path.parent) as directory:
        save_file({k: v.contiguous() for k, v in embedder.state_dict().items()}, directory / EMBEDDER)
        save_file({k: v.contiguous() for k, v in contextualizer.state_dict().items()}, directory / CONTEXTUALIZER)
        config = BundleConfig(
            model=model,
            popularity_half_lives_days=half_lives_days,
            vector_space_id=vector_space_id(sha256(directory / EMBEDDER), model),
            model_version=MODEL_VERSION,
        )
        (directory / CONFIG).write_bytes(msgspec.json.format(msgspec.json.encode(config)))
        (directory / SCHEMA).write_text(dump_schema(schema))
        write_table(directory / POPULARITY, popularity)
        (directory / METRICS).write_text(json.dumps(metrics, indent=2, allow_nan=False))
        (directory / PROVENANCE).write_text(json.dumps(provenance, indent=2))
        manifest = seal(directory, KIND, parent=None)
        move_into_place(directory, path)
    return manifest


def load_bundle(path: Path) -> Bundle:
    """Verify every hash, then load a bundle; IntegrityError, FormatError or ReleaseMismatch when it must not be used."""
    manifest = verify_directory(path, KIND)
    return Bundle(
        path=path,
        manifest=manifest,
        towers=load_towers(path, manifest),
        popularity=read_table(path / POPULARITY),
        metrics=json.loads((path / METRICS).read_bytes()),
    )


def load_towers(path: Path, manifest: Manifest) -> Towers:
    """Both towers of a bundle or release whose `manifest` was found true; ReleaseMismatch when embedder and config disagree.

    EnvironmentProblem when the embedder is a user's own and the operator has not named it, or it cannot be imported.
    """
    config = read_config(path)
    if config.vector_space_id != vector_space_id(manifest.files[EMBEDDER].sha256, config.model):
        raise ReleaseMismatch(f"{path}: {EMBEDDER} is not the embedder that {CONFIG} describes. Train the bundle again.")
    require_trust(config.model.embedder, path)
    embedder, contextualizer = build_embedder(config.model), Contextualizer(config.model)
    try:
        embedder.load_state_dict(load_file(path / EMBEDDER))
    except RuntimeError as error:
        raise FormatError(
            f"{path}: {EMBEDDER} does not fit the embedder {config.model.embedder!r} as it is now ({error}). Bring back the code "
            f"that it was trained with, or train the bundle again."
        ) from error
    contextualizer.load_state_dict(load_file(path / CONTEXTUALIZER))
    schema = load_schema(path / SCHEMA)
    if config.num_signals != (named := len(schema.signals.features) if schema.signals else 0):
        raise ReleaseMismatch(f"{path}: {CONFIG} has {config.num_signals} signals, {SCHEMA} {named}. Train the bundle again.")
    return Towers(embedder.eval(), contextualizer.eval(), config, schema)


def read_config(path: Path) -> BundleConfig:
    """config.json of a bundle or release; FormatError when its features or its towers are of another version."""
    try:
        config = msgspec.json.decode((path / CONFIG).read_bytes(), type=BundleConfig)
    except msgspec.DecodeError as error:
        raise FormatError(f"{path / CONFIG}: {error}. Train the bundle again with this version.") from error
    versions = {"features": (config.model.item_spec.version, VERSION), "towers": (config.model_version, MODEL_VERSION)}
    for what, (theirs, ours) in versions.items():
        if theirs != ours:
            raise FormatError(
                f"{path} was trained with {what} of version {theirs}, this program computes version {ours}. "
                f"Train the bundle again."
            )
    return config


def vector_space_id(embedder_sha256: str, model: ModelConfig) -> str:
    """Hash of the embedder's kind and weights, the features, the width and the metric: vectors of equal ids are comparable."""
    spec = msgspec.json.encode(model.item_spec).decode()
    identity = [model.embedder, embedder_sha256, spec, str(model.width), METRIC]
    return hashlib.sha256("\n".join(identity).encode()).hexdigest()[:16]


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as an Arrow IPC file."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def read_table(path: Path) -> pa.Table:
    """Read an Arrow IPC file, memory-mapped."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
