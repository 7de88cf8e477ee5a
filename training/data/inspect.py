"""Inspect events and items before training: guess a schema, and report problems and their cost."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from training.data.event_log import LogReport, read_event_log
from twotower.data.features import as_lists, as_values, to_days, to_floats
from twotower.data.schema import Schema
from twotower.data.signals import read_signals, require_signals
from twotower.errors import DataError
from twotower.model.catalogue import fit_item_spec, read_item_ids, stream_items


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding about the data: where it is, what it is, and what it costs or what to do."""

    level: str  # "error" stops training, "warning" costs quality, "note" is for information
    where: str
    what: str


def inspect(events: Path, items: Path, schema: Schema, signals: Path | None = None) -> list[Finding]:
    """All findings about the data, errors first."""
    findings: list[Finding] = []
    looks: dict[str, Callable[[], list[Finding]]] = {
        "items": lambda: _look_at_items(items, schema),
        "events": lambda: _look_at_events(events, items, schema),
        "signals": lambda: _look_at_signals(signals, items, schema),
    }
    for where, look in looks.items():
        try:
            findings.extend(look())
        except DataError as error:
            # Reading events and signals reads the items too, so an error in the items can occur again.
            if str(error) not in (f.what for f in findings):
                findings.append(Finding("error", where, str(error)))
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(findings, key=lambda f: order[f.level])


def _look_at_items(items: Path, schema: Schema) -> list[Finding]:
    item_ids = read_item_ids(items, schema.items)
    findings = [Finding("note", "items", f"{len(item_ids):,} items")]
    missing = dict.fromkeys(schema.items.features, 0)
    for table in stream_items(items, schema.items):
        for name, kind in schema.items.features.items():
            missing[name] += _num_missing(table.column(name).combine_chunks(), name, kind)
    fit_item_spec(items, schema.items)
    for name, count in missing.items():
        share = count / len(item_ids)
        if count:
            level = "warning" if share > 0.5 else "note"
            findings.append(Finding(level, f"items.{name}", f"missing in {count:,} items ({share:.1%})"))
    return findings


def _num_missing(column: pa.Array, name: str, kind: str) -> int:
    """Number of missing values, including NaN and infinities. DataError when the column is not of its kind."""
    match kind:
        case "numeric":
            return int((~np.isfinite(to_floats(column, name))).sum())
        case "time":
            return int((~np.isfinite(to_days(column, name))).sum())
        case "list" | "vector":
            return int(as_lists(column, name, pa.string() if kind == "list" else pa.float64()).null_count)
        case _:
            return int(as_values(column, name).null_count)


def _look_at_events(events: Path, items: Path, schema: Schema) -> list[Finding]:
    log = read_event_log(events, schema, read_item_ids(items, schema.items), context_rows=64)
    report = log.report
    first, last = (datetime.fromtimestamp(int(t) / 1000, UTC) for t in (log.times_ms_E.min(), log.times_ms_E.max()))
    findings = [
        Finding("note", "events", f"{report.num_used:,} usable of {report.num_events:,}, {report.num_users:,} users"),
        Finding("note", "events", f"from {first:%Y-%m-%d} to {last:%Y-%m-%d}, types: {', '.join(log.event_types[:8])}"),
        *_left_out(report),
    ]
    if schema.split is None:
        return [*findings, Finding("error", "schema", "no [split]: add validation_from and test_from")]
    for name, moment in (("validation_from", schema.split.validation_from), ("test_from", schema.split.test_from)):
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        if not first < aware <= last:
            findings.append(Finding("error", f"split.{name}", f"{aware:%Y-%m-%d} lies outside the time of the events"))
    return findings


def _left_out(report: LogReport) -> list[Finding]:
    counted = (
        (report.unknown_items, f"items are not in the catalogue (such as {', '.join(report.unknown_item_examples)})"),
        *((reason.count, reason.why) for reason in report.left_out),
    )
    return [
        Finding("warning", "events", f"{count:,} events ({count / report.num_events:.2%}) will be left out: {why}")
        for count, why in counted
        if count
    ]


def _look_at_signals(signals: Path | None, items: Path, schema: Schema) -> list[Finding]:
    require_signals(schema.signals, signals)
    if schema.signals is None or signals is None:
        return []
    found = read_signals(signals, schema.signals, read_item_ids(items, schema.items))
    first, *others = found.report.lines()
    findings = [Finding("note", "signals", first), *(Finding("warning", "signals", line) for line in others)]
    for name, values_R in zip(schema.signals.features, found.values_RS.T, strict=True):
        if values_R.any():
            findings.append(Finding("note", f"signals.{name}", f"from {values_R.min():.3g} to {values_R.max():.3g}"))
        else:
            findings.append(Finding("warning", f"signals.{name}", "0 in every row, so it has no information"))
    return findings
