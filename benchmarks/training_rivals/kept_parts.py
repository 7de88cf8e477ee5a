"""Keeps finished parts of a long benchmark under a hash of everything that they depend on, so that a crash costs little."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from training.evaluation.metrics import Rankings
from twotower.artefacts.manifest import sha256
from twotower.progress import say

ROOT = Path(__file__).parents[2]
RANKING_CODE = (
    "training/evaluation/rankers.py",
    "training/evaluation/metrics.py",
    "training/data/popularity_snapshots.py",
    "twotower/data/item_statistics.py",
)


def key_of(*parts: str) -> str:
    """Twelve hex digits of a hash of everything that a result depends on."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def hash_of(files: Iterable[Path]) -> str:
    """A hash of the contents of several files."""
    return key_of(*map(sha256, files))


def code(*paths: str) -> str:
    """A hash of source files or directories, given relative to the root of the repository."""
    found = [ROOT / path for path in paths]
    return hash_of(file for path in found for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path]))


def kept_rankings(path: Path, make: Callable[[], Rankings]) -> Rankings:
    """The rankings stored at `path`. If there are none, calls `make` and stores its result."""
    if path.exists():
        say(f"reused {path.name}, of {made_on(path)}")
        with np.load(path, allow_pickle=False) as arrays:
            return Rankings(**{field.name: arrays[field.name] for field in fields(Rankings)})
    rankings = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part.npz")
    np.savez_compressed(unfinished, **asdict(rankings))
    unfinished.replace(path)
    return rankings


def made_on(path: Path) -> str:
    """The time when a file or directory was last written, as text."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="minutes")
