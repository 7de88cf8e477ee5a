"""Metrics of the nightly job and of drift, as files for the textfile collector of Prometheus' node exporter."""

import time
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from embedder_cache.build import Published
from embedder_cache.drift.retrain import Advice
from twotower.errors import EnvironmentProblem


def write_metrics(path: Path, published: Published, seconds: float) -> None:
    """Write the metrics of a successful run, whole or not at all. A failed run leaves the file, and its last success ages."""
    registry = CollectorRegistry()

    def gauge(name: str, what: str, value: float) -> None:
        Gauge(f"twotower_embed_{name}", what, registry=registry).set(value)

    gauge("last_success_timestamp_seconds", "When the nightly job last ended well.", time.time())
    gauge("duration_seconds", "How long it took.", seconds)
    gauge("items", "Items of the release it left current.", published.num_items)
    gauge("embedded_items", "Items that were embedded anew.", published.num_embedded)
    gauge("rejected_items", "Rows of the catalogue that were left out.", published.num_rejected)
    gauge("map_points", "Points of the map of the catalogue; 0 when the release has none.", published.num_points)
    gauge("published", "Whether it published: 0 when nothing had changed.", published.changed)
    numbers = Gauge("twotower_embed_gate", "What the release was held to.", ["gate"], registry=registry)
    passed = Gauge("twotower_embed_gate_passed", "Whether it passed; 0 when it was forced.", ["gate"], registry=registry)
    for gate in published.gates:
        numbers.labels(gate.name).set(gate.value)
        passed.labels(gate.name).set(gate.passed)
    _write(path, registry)


def write_drift(path: Path, advice: Advice) -> None:
    """Write the number of each rule about training again, and its advice; a number that is unknown is left out."""
    registry = CollectorRegistry()
    numbers = Gauge("twotower_drift_value", "What happened since the bundle was trained.", ["rule"], registry=registry)
    urgent = Gauge("twotower_drift_retrain", "Train again: 0 no, 1 soon, 2 now.", ["rule"], registry=registry)
    for finding in advice.findings:
        if finding.value is not None:
            numbers.labels(finding.name).set(finding.value)
            urgent.labels(finding.name).set({"soon": 1, "now": 2}.get(finding.retrain, 0))
    _write(path, registry)


def _write(path: Path, registry: CollectorRegistry) -> None:
    try:
        write_to_textfile(str(path), registry)
    except OSError as error:
        raise EnvironmentProblem(f"cannot write {path}: {error.strerror or error}. Choose another --metrics.") from error
