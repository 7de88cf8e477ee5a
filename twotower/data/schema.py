"""The meaning of each column: the `schema.toml` beside the data.

Events have four roles (user, item, time, type) and any number of features. A fifth role, query, holds the texts of searches, if
there are any. A log without a column of types has one type for all events. Items have an id and any number of features. Signals,
if there are any, have an item, two times and numbers. Values may be missing except in the roles, and every kind says what a
missing value means:

| kind        | column holds                  | missing means                           |
|-------------|-------------------------------|-----------------------------------------|
| text        | free text                     | the field's own "missing" token         |
| categorical | one value (string or integer) | the field's own "missing" token         |
| list        | several values                | the field's own "missing" token         |
| numeric     | number; NaN is missing        | zeros and a raised flag                 |
| time        | timestamp or date             | zeros and a raised flag                 |
| vector      | fixed-length list of floats   | zeros and a raised flag                 |
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec

from twotower.errors import DataError

ItemKind = Literal["text", "categorical", "list", "numeric", "time", "vector"]
EventKind = Literal["categorical", "numeric"]
EVENT_TYPE = "event_type"  # its name as a feature, whatever the column is called
SEARCH = "search"  # the type of searches that are made up


class Constant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same value in every row, for a role that the file has no column for: `event_type = { constant = "purchase" }`."""

    constant: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class EventColumns(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Columns of the event log; `features` are known only once the event happened (price paid, channel)."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str = "timestamp"
    event_type: str | Constant = "event_type"
    query: str | None = None  # texts of searches; a row with a text and without an item is a search
    clock: bool = True  # False: dates mean nothing, only the order of events and the gaps between them
    features: dict[str, EventKind] = {}

    def __post_init__(self) -> None:
        if len(set(self.roles)) < len(self.roles):
            raise ValueError(f"[events] two roles name one column: {', '.join(self.roles)}")
        if clash := {*self.roles, EVENT_TYPE} & self.features.keys():
            raise ValueError(f"[events.features] {', '.join(sorted(clash))} is a role, not a feature")

    @property
    def roles(self) -> tuple[str, ...]:
        """The columns that the event log must have: user, item, time, then type unless it is constant, then query if named."""
        kinds = () if isinstance(self.event_type, Constant) else (self.event_type,)
        queries = () if self.query is None else (self.query,)
        return self.user_id, self.item_id, self.timestamp, *kinds, *queries


class ItemColumns(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Columns of the catalogue; `features` describe the item itself and may be embedded ahead of time."""

    item_id: str = "item_id"
    features: dict[str, ItemKind] = {}
    title: str | None = None

    def __post_init__(self) -> None:
        if clash := {self.item_id, "item_id"} & self.features.keys():
            raise ValueError(f"[items.features] {', '.join(sorted(clash))} is the id, not a feature")
        if self.title is not None and self.title not in self.features:
            raise ValueError(f"[items] title {self.title!r} is not among the features")


class SignalColumns(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Columns of item signals. `features` are numbers, known ahead, that hold while `valid_from` <= t < `valid_until`."""

    item_id: str = "item_id"
    valid_from: str = "from"
    valid_until: str = "until"
    features: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.features:
            raise ValueError('[signals] names no features: list its numeric columns, such as features = ["mailer"]')
        names = (*self.roles, *self.features)
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"[signals] names a column twice: {', '.join(twice)}")

    @property
    def roles(self) -> tuple[str, str, str]:
        """The columns beside the numbers, in the order item, from, until."""
        return self.item_id, self.valid_from, self.valid_until


class Split(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Global time split: train < `validation_from` <= validation < `test_from` <= test."""

    validation_from: datetime
    test_from: datetime

    def __post_init__(self) -> None:
        if utc_ms(self.validation_from) >= utc_ms(self.test_from):
            raise ValueError("[split] validation_from must lie before test_from")


class Schema(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of `schema.toml`."""

    events: EventColumns = EventColumns()
    items: ItemColumns = ItemColumns()
    signals: SignalColumns | None = None
    split: Split | None = None

    def require_split(self) -> Split:
        """The time split, or a DataError that says how to add one."""
        if self.split is None:
            raise DataError("schema.toml has no [split]: add validation_from and test_from, or run `twotower schema infer`")
        return self.split


def utc_ms(moment: datetime) -> int:
    """Milliseconds since the epoch; a moment without a zone is UTC."""
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def load_schema(path: Path) -> Schema:
    """Read and check a schema file; DataError names the offending key."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Schema)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: write one with `twotower schema infer`") from None
    except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: {error}") from error


def dump_schema(schema: Schema, comments: Mapping[str, Sequence[str]] = MappingProxyType({})) -> str:
    """The schema as TOML, as `load_schema` reads it, with lines of comment at the end of some tables, by their names."""
    tables: dict[str, dict[str, Any]] = {}
    for name, table in msgspec.to_builtins(schema, builtin_types=(datetime,)).items():
        if table is not None:  # TOML has no null: what is absent is left out
            tables[name] = {key: value for key, value in table.items() if value is not None and not _is_table(key, value)}
            tables |= {f"{name}.{key}": value for key, value in table.items() if _is_table(key, value)}
    parts = [
        [f"[{name}]", *(schema_line(*pair) for pair in table.items()), *(f"# {text}" for text in comments.get(name, ()))]
        for name, table in tables.items()
    ]
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _is_table(key: str, value: object) -> bool:
    return key == "features" and isinstance(value, dict)


def schema_line(key: str, value: object) -> str:
    """One line of TOML, its key and text quoted where they must be."""
    if isinstance(value, dict):
        return f"{key} = {{ {', '.join(schema_line(*pair) for pair in value.items())} }}"
    return msgspec.toml.encode({key: value}).decode().rstrip("\n")
