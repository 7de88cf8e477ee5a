"""Inspect events and items before training: guess a schema, and report problems and their cost."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from training.data.event_log import LogReport, read_event_log
from twotower.data.events import stream_events
from twotower.data.features import as_lists, as_values, to_days, to_floats
from twotower.data.schema import EventColumns, EventKind, ItemColumns, ItemKind, Schema, Split
from twotower.data.signals import read_signals, require_signals
from twotower.errors import DataError
from twotower.model.catalogue import fit_item_spec, read_item_ids, stream_items
from twotower.tables.table import open_table

# Column names in public data sets, best guess first.
ROLE_NAMES = {
    "user_id": ("user_id", "userid", "user", "customer_id", "household_id", "visitor_id", "visitorid", "session_id"),
    "item_id": ("item_id", "itemid", "item", "product_id", "article_id", "sku", "asin"),
    "timestamp": ("timestamp", "time", "event_time", "datetime", "date", "ts", "transaction_timestamp"),
    "event_type": ("event_type", "event", "type", "action", "behavior"),
}
MANY_WORDS = 2.5  # a string column with more words per value, on average, is guessed to be text
VALIDATION_SHARE, TEST_SHARE = 0.1, 0.1
SAMPLE_ROWS = 20_000
GROUP_IDS = ("basket_id", "session_id", "event_id")


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding about the data: where it is, what it is, and what it costs or what to do."""

    level: str  # "error" stops training, "warning" costs quality, "note" is for information
    where: str
    what: str


def infer_schema(events: Path, items: Path) -> Schema:
    """A first schema from column names and types. The last tenth of the events is the test part, the tenth before validation."""
    event_schema, item_schema = open_table(events, "events").schema, open_table(items, "items").schema
    roles = {role: _find(role, event_schema.names, events) for role in ROLE_NAMES}
    item_id = _find("item_id", item_schema.names, items)
    columns = EventColumns(
        user_id=roles["user_id"],
        item_id=roles["item_id"],
        timestamp=roles["timestamp"],
        event_type=roles["event_type"],
        features={f.name: kind for f in event_schema if f.name not in roles.values() and (kind := _event_kind(f)) is not None},
    )
    sample = open_table(items, "items").head(item_schema.names, SAMPLE_ROWS)
    features: dict[str, ItemKind] = {
        f.name: item_kind
        for f in item_schema
        if f.name != item_id and (item_kind := _item_kind(f, sample.column(f.name))) is not None
    }
    texts = [name for name, kind in features.items() if kind == "text"]
    return Schema(
        events=columns,
        items=ItemColumns(item_id=item_id, features=features, title=texts[0] if texts else None),
        split=_split(events, columns),
    )


def _find(role: str, names: list[str], path: Path) -> str:
    lower = {n.lower(): n for n in names}
    for guess in ROLE_NAMES[role]:
        if guess in lower:
            return lower[guess]
    raise DataError(
        f"{path}: no column looks like {role} (tried {', '.join(ROLE_NAMES[role])}; the file has {', '.join(names)}). "
        f"Rename it, or write schema.toml by hand."
    )


def _event_kind(field: pa.Field) -> EventKind | None:
    """Floats and strings are features. Integers are not, because they may be ids of groups such as baskets or sessions."""
    if pt.is_floating(field.type) or pt.is_decimal(field.type):
        return "numeric"
    is_text = any(check(field.type) for check in (pt.is_string, pt.is_large_string, pt.is_string_view, pt.is_dictionary))
    return "categorical" if is_text and not field.name.endswith(GROUP_IDS) else None


def _item_kind(field: pa.Field, values: pa.ChunkedArray) -> ItemKind | None:
    kind = field.type
    if pt.is_temporal(kind):
        return "time"
    if pt.is_floating(kind) or pt.is_decimal(kind):
        return "numeric"
    if pt.is_integer(kind):
        return "categorical" if field.name.endswith("_id") else "numeric"
    if pt.is_list(kind) or pt.is_fixed_size_list(kind) or pt.is_large_list(kind):
        return "vector" if pt.is_floating(kind.value_type) else "list"
    if pt.is_string(kind) or pt.is_large_string(kind) or pt.is_dictionary(kind):
        words = pc.mean(pc.list_value_length(pc.utf8_split_whitespace(values.cast(pa.string()).drop_null()))).as_py()
        return "text" if (words or 0) >= MANY_WORDS else "categorical"
    return "categorical" if pt.is_boolean(kind) else None


def _split(events: Path, columns: EventColumns) -> Split:
    """Quantiles of the event times, rounded down to days unless that makes them equal."""
    stride = max(1, open_table(events, "events").num_rows // 1_000_000)
    sample = np.concatenate([batch.times_ms_E[::stride] for batch in stream_events(events, columns)])
    at = np.quantile(sample, (1 - VALIDATION_SHARE - TEST_SHARE, 1 - TEST_SHARE))
    moments = [datetime.fromtimestamp(int(ms) // 1000, UTC) for ms in at]
    days = [m.replace(hour=0, minute=0, second=0) for m in moments]
    start = datetime.fromtimestamp(int(sample.min()) // 1000, UTC)
    first, second = days if start < days[0] < days[1] else moments
    if first >= second:
        raise DataError(f"{events}: all events have the same time, so they cannot be split into training, validation and test")
    return Split(validation_from=first, test_from=second)


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
