"""Guesses a first schema from the names, types and values of columns, and says which columns it leaves out and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from training.corpora.column_names import QUERIES, ROLES, TITLES, find_role, is_group, is_id, normalised
from twotower.data.events import stream_events
from twotower.data.features import DAY_MS
from twotower.data.schema import (
    Constant,
    EventColumns,
    EventKind,
    ItemColumns,
    ItemKind,
    Schema,
    Split,
    dump_schema,
    schema_line,
)
from twotower.errors import DataError
from twotower.tables.iso_times import parse_times
from twotower.tables.plain import EXACT
from twotower.tables.table import Table, open_table

VALIDATION_SHARE, TEST_SHARE = 0.1, 0.1
SAMPLE_ROWS, SAMPLE_PLACES = 20_000, 20  # rows that are looked at, and from how many row groups all over the files
BATCH_ROWS = 131_072
MANY_WORDS = 2.5  # a column of strings with more words per value, on average, is guessed to be text
LONG_NAME = 4  # the same in characters, where words are not separated by spaces
MANY_VALUES = 50  # with so many different values or fewer, nothing is said of a column
ID_SHARE = {"events": 0.1, "items": 0.9}  # of different values among all: beyond it, text is taken for an id
MOST_TYPES = 1000  # different values; a column with more does not hold the types of events
CONSTANT_TYPE = "purchase"
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_NUMBER_TEXT = r"^\s*[+-]?\d*[.,]?\d+\s*$"
_INDEX_NAMES = ("index", "indexlevel0", "unnamed0", "rownumber", "rowid")  # what pandas and others write beside the data
ARE_IDS = "its values look like ids"


@dataclass(frozen=True, slots=True)
class LeftOutColumn:
    """A column that is no feature of the guessed schema."""

    table: str  # events or items
    name: str
    why: str
    kind: str | None  # what to write to use it all the same; None when it cannot be used

    def comment(self) -> str:
        """The line of schema.toml about it."""
        return f"{self.name!r}: {self.why}" if self.kind is None else f"{schema_line(self.name, self.kind)}  # {self.why}"


@dataclass(frozen=True, slots=True)
class Guess:
    """A first schema, and what it leaves out."""

    schema: Schema
    left_out: tuple[LeftOutColumn, ...]
    notes: tuple[str, ...]

    def text(self) -> str:
        """The schema as TOML, with a comment about each column that is left out."""
        comments: dict[str, list[str]] = {"events": list(self.notes)}
        for table in ("events", "items"):
            lines = [column.comment() for column in self.left_out if column.table == table]
            comments[f"{table}.features"] = ["left out:", *lines] if lines else []
        return dump_schema(self.schema, comments)


Kind = EventKind | ItemKind
Verdict = tuple[Kind | None, str]  # the kind to write, and if the column is left out, why; no kind: it cannot be used


def infer_schema(events: Path, items: Path) -> Guess:
    """A first schema of these files. The last tenth of the events is the test part, the tenth before it validation.

    DataError when a file cannot be read, or when no column looks like the user, the item or the time.
    """
    event_table, item_table = open_table(events, "events"), open_table(items, "items")
    _refuse_nested_items(event_table)
    item_id = _item_id(item_table, event_table)
    roles = _roles(event_table, item_id)
    notes = []
    if not isinstance(roles["event_type"], str):
        notes.append(
            f'no column tells the types of events, so all are a "{CONSTANT_TYPE}": write what they are, or name a column'
        )
    named = {name for name in roles.values() if isinstance(name, str)}
    query = _query(event_table, str(roles["item_id"]))
    named |= {query} if query else set()
    event_features, event_rest = _features(event_table, "events", named | {"event_type"})
    item_features, item_rest = _features(item_table, "items", {item_id, "item_id"})
    columns = EventColumns(**roles, query=query, features=event_features)  # type: ignore[arg-type]
    texts = [name for name, kind in item_features.items() if kind == "text"]
    title = min(
        texts, key=lambda name: TITLES.index(normalised(name)) if normalised(name) in TITLES else len(TITLES), default=None
    )
    schema = Schema(
        events=columns,
        items=ItemColumns(item_id=item_id, features=item_features, title=title),
        split=_split(events, event_table.num_rows, columns),
    )
    return Guess(schema, (*event_rest, *item_rest), tuple(notes))


def _item_id(items: Table, events: Table) -> str:
    """The id of an item in the catalogue: the best guess, or a column called `id`."""
    names = items.schema.names
    known = {normalised(name): name for name in names}
    shared = [known[n] for n in map(normalised, events.schema.names) if n in known and n in ROLES["item_id"]]
    if found := find_role("item_id", shared) or find_role("item_id", names) or known.get("id"):
        return found
    raise _unknown("item_id", items)


def _roles(events: Table, item_id: str) -> dict[str, str | Constant]:
    """The columns of the roles; a constant when no column tells the types of events."""
    names = events.schema.names
    same = [name for name in names if normalised(name) == normalised(item_id)]
    found = {"user_id": find_role("user_id", names), "item_id": same[0] if same else find_role("item_id", names)}
    found["timestamp"] = find_role("timestamp", names) or _only_time(events)
    for role, name in found.items():
        if name is None:
            raise _unknown(role, events)
    kind = find_role("event_type", names)
    if kind is not None and not _tells_types(events, kind):
        kind = None
    return {**found, "event_type": kind or Constant(constant=CONSTANT_TYPE)}  # type: ignore[dict-item]


def _query(events: Table, item_id: str) -> str | None:
    """The column of texts of searches: by its name, if some events have a text there and no item."""
    known = {normalised(name): name for name in events.schema.names if pt.is_string(events.schema.field(name).type)}
    name = next((known[guess] for guess in QUERIES if guess in known), None)
    if name is None:
        return None
    values = _sample(events, [name, item_id])
    texts, items = values[name], values[item_id]
    if isinstance(texts, str) or isinstance(items, str):
        return None
    is_search = pc.and_(texts.is_valid(), pc.equal(items.cast(pa.string()).fill_null(""), ""))
    return name if pc.any(is_search).as_py() else None


def _only_time(events: Table) -> str | None:
    times = [f.name for f in events.schema if pt.is_timestamp(f.type) or pt.is_date(f.type)]
    return times[0] if len(times) == 1 else None


def _tells_types(events: Table, name: str) -> bool:
    kind = events.schema.field(name).type
    if pt.is_nested(kind) or pt.is_floating(kind) or pt.is_temporal(kind):
        return False
    values = _sample(events, [name])[name]
    return not isinstance(values, str) and bool(pc.count_distinct(values).as_py() <= MOST_TYPES)


def _refuse_nested_items(events: Table) -> None:
    """DataError for the export of GA4, whose events hold lists of items."""
    if {"event_name", "event_timestamp"} <= set(events.schema.names) and "items" in events.left_out:
        raise DataError(
            f"{events.path} is the nested export of GA4: `twotower prepare files --events {events.path} --out DIR` makes one row "
            f"of each item of an event"
        )


def _unknown(role: str, table: Table) -> DataError:
    if unreadable := find_role(role, table.left_out):
        return DataError(f"{table.path}: column {unreadable!r} cannot be read: {table.left_out[unreadable]}")
    return DataError(
        f"{table.path}: no column looks like {role} (known are names such as {', '.join(ROLES[role][:12])}; the file has "
        f"{', '.join([*table.schema.names, *table.left_out])}). Rename it, or write schema.toml by hand."
    )


def _features(table: Table, what: str, roles: set[str]) -> tuple[dict[str, Kind], list[LeftOutColumn]]:
    """The kinds of the features, and the columns that are left out."""
    features: dict[str, Kind] = {}
    rest = [LeftOutColumn(what, name, why, None) for name, why in table.left_out.items()]
    fields = [f for f in table.schema if f.name not in roles]
    sample = _sample(table, [f.name for f in fields])
    for field in fields:
        values = sample[field.name]
        if isinstance(values, str):
            rest.append(LeftOutColumn(what, field.name, values, None))
            continue
        kind, why = _verdict(table, what, field, values)
        if why or kind is None:
            rest.append(LeftOutColumn(what, field.name, why, kind))
        else:
            features[field.name] = kind
    return features, rest


def _sample(table: Table, names: Sequence[str]) -> dict[str, pa.Array | str]:
    """Values of the columns from places all over the table; in place of a column that cannot be read, the reason."""
    groups = [(part, g) for part in table.parts for g in range(part.fragment.metadata.num_row_groups)]
    chosen = [groups[i] for i in np.unique(np.linspace(0, len(groups) - 1, SAMPLE_PLACES).astype(int))] if groups else []
    rows = max(SAMPLE_ROWS // max(len(chosen), 1), 1)

    def read(wanted: Sequence[str]) -> list[pa.ChunkedArray]:
        batches = [next(table.batches_of(part, wanted, rows, group), None) for part, group in chosen]
        schema = pa.schema([table.schema.field(name) for name in wanted])
        return list(pa.Table.from_batches([b for b in batches if b is not None], schema).columns)

    try:
        return dict(zip(names, (column.combine_chunks() for column in read(names)), strict=True))
    except DataError:
        found: dict[str, pa.Array | str] = {}
        for name in names:
            try:
                found[name] = read([name])[0].combine_chunks()
            except DataError as error:
                found[name] = str(error)
        return found


def _verdict(table: Table, what: str, field: pa.Field, values: pa.Array) -> Verdict:
    if values.null_count == len(values):
        return None if pt.is_null(field.type) else _guess_of_type(field.type, what), "it has no value in the rows looked at"
    return _event_verdict(table, field, values) if what == "events" else _item_verdict(table, field, values)


def _guess_of_type(kind: pa.DataType, what: str) -> Kind | None:
    if pt.is_nested(kind):
        return None
    if pt.is_temporal(kind):
        return "time" if what == "items" else None
    return "numeric" if pt.is_floating(kind) or pt.is_integer(kind) else "categorical"


def _event_verdict(table: Table, field: pa.Field, values: pa.Array) -> Verdict:
    """A feature of an event must say something of the event, not which one it is."""
    kind, name = field.type, field.name
    if pt.is_nested(kind):
        return None, "features of events are single values"
    if pt.is_temporal(kind):
        return None, "features of events are no times; the event has its own"
    if pt.is_boolean(kind):
        return "categorical", ""
    if pt.is_string(kind):
        number = _share(values, _NUMBER_TEXT) == 1 and not is_id(name)
        if is_group(name) or _looks_like_id(values, "events"):
            why = "it holds numbers as text: store numbers to use it as numeric" if number and not is_group(name) else ARE_IDS
            return "categorical", why
        return "categorical", ""
    if (
        is_group(name)
        or normalised(name) in _INDEX_NAMES
        or (_is_whole(values) and is_id(name) and _looks_like_id(values, "events"))
    ):
        return "categorical", ARE_IDS
    if is_id(name):
        return "categorical", ""
    if pt.is_floating(kind):
        return "numeric", ""
    if _looks_like_id(values, "items"):
        return "numeric", ARE_IDS
    return ("numeric" if _is_exact(table, name) else "categorical"), ""


def _item_verdict(table: Table, field: pa.Field, values: pa.Array) -> Verdict:
    kind, name = field.type, field.name
    if pt.is_temporal(kind):
        return "time", ""
    if pt.is_boolean(kind):
        return "categorical", ""
    if pt.is_list(kind):
        return _list_verdict(kind, values)
    if pt.is_string(kind):
        return _text_verdict(table, name, values)
    if is_id(name) or normalised(name) in _INDEX_NAMES:
        return "categorical", ARE_IDS if _looks_like_id(values, "items") else ""
    if pt.is_floating(kind) or _is_exact(table, name):
        return "numeric", ""
    return "categorical", ARE_IDS if _looks_like_id(values, "items") else ""


def _list_verdict(kind: pa.DataType, values: pa.Array) -> Verdict:
    if not pt.is_floating(kind.value_type):
        return "list", ""
    lengths = pc.value_counts(pc.list_value_length(values).drop_null()).field("counts")
    if pc.max(lengths).as_py() * 2 <= pc.sum(lengths).as_py():
        return None, "its lists of numbers have different lengths, so they are no vectors"
    return "vector", ""


def _text_verdict(table: Table, name: str, values: pa.Array) -> Verdict:
    if normalised(name) in TITLES:
        return "text", ""
    if _share(values, _NUMBER_TEXT) == 1 and not is_id(name) and _looks_like_id(values, "items"):
        return "categorical", "it holds numbers as text: store numbers to use it as numeric"
    if _is_time(values) and _all_times(table, name):
        return "time", ""
    unspaced = _share(values, _UNSPACED) > 0.5 and pc.mean(pc.utf8_length(values)).as_py() >= LONG_NAME
    words = pc.mean(pc.list_value_length(pc.utf8_split_whitespace(values.drop_null()))).as_py() or 0
    if words >= MANY_WORDS or unspaced:
        return "text", ""
    return "categorical", ARE_IDS if _looks_like_id(values, "items") else ""


def _share(values: pa.Array, pattern: str) -> float:
    """Share of the values that match."""
    return float(pc.mean(pc.match_substring_regex(values.drop_null(), pattern).cast(pa.float64())).as_py() or 0)


def _looks_like_id(values: pa.Array, what: str) -> bool:
    """Whether too many values differ to be a feature."""
    present = values.drop_null()
    distinct = pc.count_distinct(present).as_py()
    return bool(distinct > MANY_VALUES and distinct > ID_SHARE[what] * len(present))


def _is_whole(values: pa.Array) -> bool:
    if not pt.is_floating(values.type):
        return True
    present = values.cast(pa.float64()).drop_null()
    return bool(pc.all(pc.or_(pc.is_nan(present), pc.equal(pc.floor(present), present))).as_py())


def _is_exact(table: Table, name: str) -> bool:
    """Whether all integers of a column are numbers that a float64 holds."""
    for batch in table.batches([name], BATCH_ROWS):
        reach = pc.min_max(batch.column(0))
        if any(end.as_py() is not None and abs(end.as_py()) > EXACT for end in (reach["min"], reach["max"])):
            return False
    return True


def _is_time(values: pa.Array) -> bool:
    present = pc.if_else(pc.equal(values, ""), None, values).drop_null()
    return len(present) > 0 and parse_times(present).null_count == 0


def _all_times(table: Table, name: str) -> bool:
    return all(_is_time(b.column(0)) or b.column(0).null_count == len(b) for b in table.batches([name], BATCH_ROWS))


def _split(events: Path, num_rows: int, columns: EventColumns) -> Split:
    """Quantiles of the event times, rounded down to days that have events unless that leaves a part without any."""
    stride = max(1, num_rows // 1_000_000)
    sample = np.concatenate([batch.times_ms_E[::stride] for batch in stream_events(events, columns)])
    first_ms, second_ms = np.quantile(sample, (1 - VALIDATION_SHARE - TEST_SHARE, 1 - TEST_SHARE), method="lower")
    day_of_second = second_ms - second_ms % DAY_MS
    last_before = sample[sample < day_of_second].max(initial=first_ms)
    day_of_first = min(first_ms, last_before) // DAY_MS * DAY_MS
    for bounds in ((day_of_first, day_of_second), (first_ms, second_ms)):
        if np.bincount(np.searchsorted(bounds, sample, side="right"), minlength=3).all():
            first, second = (datetime.fromtimestamp(int(ms) / 1000, UTC) for ms in bounds)
            return Split(validation_from=first, test_from=second)
    raise DataError(
        f"{events}: the events have too few different times to be split into training, validation and test; is "
        f"{columns.timestamp!r} the right column?"
    )
