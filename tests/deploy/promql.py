"""What the rules and dashboards ask of Prometheus, and which metrics there are."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from embedder_cache.build import Published
from embedder_cache.checks.gates import Gate
from embedder_cache.commands.prometheus_file import write_drift, write_metrics
from embedder_cache.drift.retrain import Advice, Finding, Rule
from service.telemetry.metrics import Metrics
from twotower.nightly.metrics_file import as_text
from twotower.nightly.status import new_night

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
_WORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "offset", "bool", "inf", "nan"}
_FROM_PROMETHEUS = {"job", "instance"}


class Asked(NamedTuple):
    """A metric as a query names it, and the labels that the query asks of it."""

    metric: str
    labels: frozenset[str]


def groups() -> list[dict[str, Any]]:
    return [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]


def rules() -> list[dict[str, Any]]:
    return [rule for group in groups() for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def asked(query: str) -> set[Asked]:
    """Every metric in a query with the labels in its braces. Functions, keywords and lists of labels are left out."""
    found = set()
    query = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", query)
    query = re.sub(r"\[[^\]]*\]|\boffset\s+\w+", " ", query)
    braced = re.compile(r'([a-zA-Z_:][\w:]*)\s*\{((?:[^}"]|"[^"]*")*)\}')
    for name, matchers in braced.findall(query):
        found.add(Asked(name, frozenset(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', matchers))))
    rest = re.sub(r'"[^"]*"', " ", braced.sub(" ", query))
    for name, opens in re.findall(r"(?<![\w.$])([a-zA-Z_:][\w:]*)\s*(\(?)", rest):
        if not opens and name.lower() not in _WORDS:
            found.add(Asked(name, frozenset()))
    return found


def known(tmp_path: Path) -> dict[str, set[str]]:
    """Every metric that there is, by the name that a query uses, with its labels."""
    metrics = Metrics(CollectorRegistry())
    labels = {m._name: set(m._labelnames) for m in vars(metrics).values() if hasattr(m, "_labelnames")}
    found = {"up": set(_FROM_PROMETHEUS)}
    for family in [*metrics.registry.collect(), *of_the_nightly_job(tmp_path)]:
        own = labels.get(family.name, {label for sample in family.samples for label in sample.labels})
        for name in names_of(family):
            found[name] = own | _FROM_PROMETHEUS | ({"le"} if name.endswith("_bucket") else set())
    for rule in rules():
        if "record" in rule:
            found[rule["record"]] = {"job"}
    return found


def names_of(family: Metric) -> list[str]:
    match family.type:
        case "counter":
            return [f"{family.name}_total"]
        case "histogram":
            return [f"{family.name}_{part}" for part in ("bucket", "count", "sum")]
        case _:
            return [family.name]


def of_the_nightly_job(tmp_path: Path) -> list[Metric]:
    """What `twotower nightly` leaves, and `twotower embed` and `twotower releases drift` with --metrics."""
    gates = tuple(Gate(name=name, value=1.0) for name in ("recall100", "rejected"))
    published = Published("release-1", 1, True, None, 1, 1.0, 0, 0, 0, 0, 0, gates)
    finding = Finding(name="bundle_age_days", value=1.0, rule=Rule(soon=2, now=3), retrain="no")
    write_metrics(tmp_path / "embed.prom", published, 1.0)
    write_drift(tmp_path / "drift.prom", Advice(retrain="no", findings=[finding]))
    texts = [(tmp_path / name).read_text() for name in ("embed.prom", "drift.prom")]
    night = new_night("2026-05-31")
    night.steps[0].started = night.steps[0].ended = datetime(2026, 5, 31, tzinfo=UTC)
    texts.append(as_text(night, 1.0, True, 1.0))
    return [family for text in texts for family in text_string_to_metric_families(text)]


def unknown(query: str, there: dict[str, set[str]]) -> list[str]:
    """What a query names that is not there."""
    wrong = []
    for one in asked(query):
        if one.metric not in there:
            wrong.append(one.metric)
        else:
            wrong += [f"{one.metric}{{{label}}}" for label in one.labels - there[one.metric]]
    return wrong
