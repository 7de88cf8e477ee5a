"""Reads a finished or unfinished run: its journal, and the metrics and provenance of its bundle."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.run.journal import CONFIG, EVALUATIONS, RUN_SUFFIX, STEPS, EvaluationLine, Journal, read_journal
from twotower.artefacts.bundle import METRICS, PROVENANCE
from twotower.artefacts.manifest import MANIFEST
from twotower.errors import EnvironmentProblem


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run. `metrics` and `provenance` are empty until the bundle is written."""

    directory: Path
    bundle: Path
    journal: Journal
    metrics: dict[str, Any]
    provenance: dict[str, Any]
    idle_s: float | None  # since the journal was last written

    @property
    def is_finished(self) -> bool:
        """Whether the bundle is written."""
        return bool(self.metrics)

    @property
    def noted(self) -> dict[str, Any]:
        """Facts about the run: config, parameters, data and versions, from the journal and the bundle."""
        return (
            self.journal.config
            | self.provenance
            | {k: v for k, v in self.metrics.items() if k in ("parameters", "data", "candidates")}
        )

    def evaluations_of(self, ranker: str) -> list[EvaluationLine]:
        """The evaluations of one ranker, in order of time."""
        return [line for line in self.journal.evaluations if line.ranker == ranker]


def read_run(path: Path) -> RunRecord:
    """Read the run of a run directory or of a bundle. EnvironmentProblem when `path` is neither."""
    beside = path.with_name(f"{path.name}{RUN_SUFFIX}")
    if (path / METRICS).is_file() and (path / MANIFEST).is_file():
        directory, bundle = beside, path
    elif is_run(path):
        directory, bundle = path, bundle_of(path)
    elif is_run(beside):
        directory, bundle = beside, path
    else:
        raise EnvironmentProblem(
            f"{path} is neither a bundle nor a run directory: give the bundle that `twotower train` writes, "
            f"or the directory BUNDLE{RUN_SUFFIX} that it leaves beside it"
        )
    return RunRecord(
        directory,
        bundle,
        read_journal(directory),
        read_object(bundle / METRICS),
        read_object(bundle / PROVENANCE),
        seconds_idle(directory),
    )


def is_run(path: Path) -> bool:
    """Whether the directory holds a journal."""
    return (path / CONFIG).is_file() and (path / STEPS).is_file()


def bundle_of(directory: Path) -> Path:
    """The path of the run's bundle, which may not exist yet: beside the run directory, or as the journal says."""
    beside = directory.with_name(directory.name.removesuffix(RUN_SUFFIX))
    if beside != directory:
        return beside
    return Path(read_object(directory / CONFIG).get("bundle", directory / "bundle"))


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no file."""
    content: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    return content


def seconds_idle(directory: Path) -> float | None:
    """Seconds since the journal was last written."""
    times = [file.stat().st_mtime for name in (STEPS, EVALUATIONS) if (file := directory / name).is_file()]
    return time.time() - max(times) if times else None
