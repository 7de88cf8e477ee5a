"""Inspects events, items and signals before training: reports problems, what they cost, and what each later stage will do."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from training.data.event_log import READS, EventLog, LogReport, read_event_log
from training.data.inspect_items import Finding, ItemTally
from twotower.data.features import FieldSpec
from twotower.data.schema import ItemColumns, Schema, utc_ms
from twotower.data.signals import read_signals, require_signals
from twotower.errors import DataError
from twotower.model.catalogue import fit_item_spec, stream_rows
from twotower.progress import step
from twotower.tables.table import Table, open_table

# A user with this share of the events, and so many times the events of the middle user, is taken for a robot.
ROBOT_SHARE, ROBOT_FACTOR, MANY_USERS = 0.05, 10, 20
MOST_SHOWN = 5  # users with the most events
STAND_IN_FACTOR = 5  # the same for an id that may stand for a missing one
# What tools write in place of a user or item that they do not know.
PLACEHOLDERS = ("(not set)", "null", "none", "nan", "undefined", "unknown", "n/a", "na", "anonymous", "guest", "0", "-1", "-")


def inspect(events: Path, items: Path, schema: Schema, signals: Path | None = None, hide_users: bool = False) -> list[Finding]:
    """All findings about the data, errors first. With `hide_users`, none names a user."""
    try:
        findings, item_ids = _look_at_items(items, schema)
    except DataError as error:
        note = "not looked at, because the items cannot be read"
        return [Finding("error", "items", str(error)), Finding("note", "events", note)]
    looks: dict[str, Callable[[], list[Finding]]] = {
        "events": lambda: _look_at_events(events, item_ids, schema, hide_users),
        "signals": lambda: _look_at_signals(signals, item_ids, schema),
    }
    for where, look in looks.items():
        try:
            findings.extend(look())
        except DataError as error:
            findings.append(Finding("error", where, str(error)))
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(findings, key=lambda f: order[f.level])


def _look_at_items(items: Path, schema: Schema) -> tuple[list[Finding], pa.Array]:
    """The findings, and the ids of the items, each once."""
    table = open_table(items, "items")
    table.require([schema.items.item_id])
    findings = [*_not_read(table, "items", (schema.items.item_id, *schema.items.features))]
    fields: list[FieldSpec] = []
    for name, kind in schema.items.features.items():
        try:
            spec = fit_item_spec(items, ItemColumns(item_id=schema.items.item_id, features={name: kind}))
            fields.append(spec.fields[1])
        except DataError as error:
            findings.append(Finding("error", f"items.{name}", str(error)))
    tally = ItemTally(schema.items.item_id, fields)
    fitting = {name: kind for name, kind in schema.items.features.items() if name in {spec.name for spec in fields}}
    with step("look at items", table.num_rows, "items") as work:
        for rows in stream_rows(items, ItemColumns(item_id=schema.items.item_id, features=fitting)):
            tally.add(rows)
            work.advance(len(rows))
    return [Finding("note", "items", f"{tally.num_rows:,} items"), *findings, *tally.findings()], tally.item_ids()


def _not_read(table: Table, what: str, used: Sequence[str]) -> Iterator[Finding]:
    """Files and columns that are there and not read."""
    if table.other_files:
        yield Finding("note", what, f"files that are not read, because they are no Parquet: {', '.join(table.other_files[:8])}")
    if others := [name for name in (*table.schema.names, *table.left_out) if name not in used]:
        more = f" and {len(others) - 12} more" if len(others) > 12 else ""
        yield Finding("note", what, f"columns that the schema does not name: {', '.join(others[:12])}{more}")


def _look_at_events(events: Path, item_ids: pa.Array, schema: Schema, hide_users: bool) -> list[Finding]:
    table = open_table(events, "events")
    with step("look at events", READS * table.num_rows, "events") as work:
        log = read_event_log(events, schema, item_ids, context_rows=64, on_events=work.advance)
    report = log.report
    first, last = (datetime.fromtimestamp(int(t) / 1000, UTC) for t in (log.times_ms_E.min(), log.times_ms_E.max()))
    findings = [
        Finding("note", "events", f"{report.num_used:,} usable of {report.num_events:,}, {report.num_users:,} users"),
        Finding("note", "events", f"from {first:%Y-%m-%d} to {last:%Y-%m-%d}, types: {', '.join(log.event_types[:8])}"),
        *(Finding("note", "events", note) for note in report.notes),
        *_not_read(table, "events", (*schema.events.roles, *schema.events.features)),
        *_left_out(report),
        *_strange_users(log, hide_users),
    ]
    if schema.split is None:
        return [*findings, Finding("error", "schema", "no [split]: add validation_from and test_from")]
    for name, moment in (("validation_from", schema.split.validation_from), ("test_from", schema.split.test_from)):
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        if not first < aware <= last:
            what = f"{aware:%Y-%m-%d} lies outside the time of the events, which is from {first:%Y-%m-%d} to {last:%Y-%m-%d}"
            findings.append(Finding("error", f"split.{name}", what))
    bounds = [utc_ms(schema.split.validation_from), utc_ms(schema.split.test_from)]
    train, validation, test = np.bincount(np.searchsorted(bounds, log.times_ms_E, side="right"), minlength=3)
    findings.append(Finding("note", "split", f"{train:,} events for training, {validation:,} for validation, {test:,} for test"))
    return findings


def _strange_users(log: EventLog, hide_users: bool) -> Iterator[Finding]:
    """Users who cannot be one person: they have too many events, or an id that stands for a missing one."""
    sizes_U = np.diff(log.offsets_U1)
    total, usual = int(sizes_U.sum()), float(np.median(sizes_U))
    for user in np.argsort(-sizes_U)[:MOST_SHOWN].tolist():
        name, size = log.user_ids[user], int(sizes_U[user])
        has = f"{'a user' if hide_users else f'user {name!r}'} has {size:,} of {total:,} events ({size / total:.1%})"
        if name.strip().lower() in PLACEHOLDERS and size > STAND_IN_FACTOR * usual:
            why = "that looks like a missing id, and the events of many people become one history"
        elif log.num_users >= MANY_USERS and size >= ROBOT_SHARE * total and size > ROBOT_FACTOR * usual:
            why = "a robot, or a test account? The model learns from it as from a person"
        else:
            continue
        yield Finding("warning", "events", f"{has}: {why}; leave its events out")


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


def _look_at_signals(signals: Path | None, item_ids: pa.Array, schema: Schema) -> list[Finding]:
    require_signals(schema.signals, signals)
    if schema.signals is None or signals is None:
        return []
    found = read_signals(signals, schema.signals, item_ids)
    first, *others = found.report.lines()
    findings = [Finding("note", "signals", first), *(Finding("warning", "signals", line) for line in others)]
    for name, values_R in zip(schema.signals.features, found.values_RS.T, strict=True):
        if values_R.any():
            findings.append(Finding("note", f"signals.{name}", f"from {values_R.min():.3g} to {values_R.max():.3g}"))
        else:
            findings.append(Finding("warning", f"signals.{name}", "0 in every row, so it has no information"))
    return findings
