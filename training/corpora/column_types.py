"""Decides the type of each column of text, by all of its values, and converts it.

| all values look like                                  | the column becomes              |
|-------------------------------------------------------|---------------------------------|
| whole numbers without leading zeros                   | int64                           |
| numbers; with a decimal comma where `;` separates     | float64                         |
| dates, times, times with a zone                       | date32, timestamp, in UTC       |
| values joined with `|`, if the column is called tags  | list of text                    |
| anything else, and ids and codes by the column's name | text, as it is written          |

RecBole says the type in the name of the column: `title:token_seq`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

import pyarrow as pa
import pyarrow.compute as pc

from training.corpora.column_names import TITLES, find_role, is_id, normalised, plain_name
from twotower.tables.iso_times import parse_times


class Kind(Enum):
    """What a column holds: in words, as a type, and a pattern that all values must have."""

    WHOLE = ("whole numbers", pa.int64(), r"^-?(0|[1-9]\d{0,17})$")
    NUMBER = ("numbers", pa.float64(), r"^[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?$")
    COMMA = ("numbers with a decimal comma", pa.float64(), r"^[+-]?(0|[1-9]\d*)(,\d+)?$")
    DATE = ("dates", pa.date32(), r"^\d{4}-\d\d-\d\d$")
    MOMENT = ("times", pa.timestamp("us"), r"^\d{4}-\d\d-\d\d")
    INSTANT = ("times with a zone", pa.timestamp("us", "UTC"), r"^\d{4}-\d\d-\d\d")
    TEXT = ("text", pa.string(), "")
    BARS = ("lists of text, joined with |", pa.list_(pa.string()), "")
    WORDS = ("lists of text, joined with spaces", pa.list_(pa.string()), "")
    NUMBERS = ("lists of numbers", pa.list_(pa.float64()), "")

    def __init__(self, told: str, type_: pa.DataType, pattern: str) -> None:
        self.told, self.type, self.pattern = told, type_, pattern


_GUESSED = (Kind.WHOLE, Kind.NUMBER, Kind.COMMA, Kind.DATE, Kind.MOMENT, Kind.INSTANT)
# All values of the second kind are of the first one too.
_NARROWER = {Kind.NUMBER: Kind.WHOLE, Kind.COMMA: Kind.WHOLE, Kind.MOMENT: Kind.DATE, Kind.INSTANT: Kind.MOMENT}
_RECBOLE = {"token": Kind.TEXT, "float": Kind.NUMBER, "token_seq": Kind.WORDS, "float_seq": Kind.NUMBERS}
_JOINED = ("genres", "genre", "tags", "categories", "keywords")
# Missing in a column of numbers or times, and text in one of text.
_NO_NUMBER = pa.array(["NA", "N/A", "n/a", "#N/A", "NaN", "nan", "None", "none", "-", "0000-00-00", "0000-00-00 00:00:00"])


@dataclass(slots=True)
class ColumnKinds:
    """What the values of one column of text may be, after those seen so far."""

    name: str
    possible: list[Kind] = field(default_factory=lambda: list(_GUESSED))
    any_value: bool = False
    any_bar: bool = False

    def add(self, values: pa.Array) -> None:
        """Take account of more values."""
        if normalised(self.name) in _JOINED:
            self.any_bar |= bool(pc.any(pc.match_substring(values, "|")).as_py())
        values = _cleaned(values).drop_null()
        if len(values):
            self.any_value = True
            fitting: list[Kind] = []
            for kind in self.possible:
                if _NARROWER.get(kind) in fitting or _fits(values, kind):
                    fitting.append(kind)
            self.possible = fitting

    def decide(self, is_label: bool, decimal_comma: bool) -> Kind:
        """The kind of the column; `is_label` if it holds ids or types of events, which stay as they are written."""
        if declared := re.search(r":((token|float)(_seq)?)$", self.name):
            is_title = normalised(self.name) in TITLES  # its words are a text
            return Kind.TEXT if is_title else _RECBOLE[declared[1]]
        if self.any_bar:
            return Kind.BARS
        if is_label or not self.any_value:
            return Kind.TEXT
        return next((kind for kind in self.possible if kind is not Kind.COMMA or decimal_comma), Kind.TEXT)


def decide_kinds(batches: Iterable[pa.RecordBatch], what: str, decimal_comma: bool) -> dict[str, Kind]:
    """The kind of each column of text, after one pass over all values."""
    found: dict[str, ColumnKinds] = {}
    for batch in batches:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if pa.types.is_string(column.type):
                found.setdefault(name, ColumnKinds(name)).add(column)
    labels = {find_role(role, found) for role in ("item_id", *(("user_id", "event_type") if what == "events" else ()))}
    return {name: kinds.decide(name in labels or is_id(name), decimal_comma) for name, kinds in found.items()}


def convert(values: pa.Array, kind: Kind) -> pa.Array:
    """The values of a column of text as the type of its kind. ArrowInvalid for a value that is not of a declared kind."""
    match kind:
        case Kind.TEXT:
            return values
        case Kind.BARS | Kind.WORDS:
            return pc.split_pattern(values, "|" if kind is Kind.BARS else " ")
        case Kind.NUMBERS:
            return pc.split_pattern(pc.utf8_trim_whitespace(values), " ").cast(kind.type)
        case Kind.COMMA:
            return pc.replace_substring(_cleaned(values), ",", ".").cast(kind.type)
        case Kind.INSTANT:
            return parse_times(_cleaned(values))
        case _:
            return _cleaned(values).cast(kind.type)


def type_in_words(kind: pa.DataType) -> str:
    """What a column of this type holds, for the terminal."""
    return {known.type: known.told for known in (Kind.WHOLE, Kind.NUMBER, Kind.DATE, Kind.MOMENT, Kind.INSTANT, Kind.TEXT)}.get(
        kind, str(kind)
    )


def column_name(name: str, names: Iterable[str]) -> str:
    """The name of a column in the output: RecBole's without the type, unless two would be one."""
    short = plain_name(name)
    return name if sum(plain_name(other) == short for other in names) > 1 else short


def _cleaned(values: pa.Array) -> pa.Array:
    """Values without spaces around them, and missing where they say so."""
    trimmed = pc.utf8_trim_whitespace(values)
    return pc.if_else(pc.or_(pc.is_in(trimmed, _NO_NUMBER), pc.equal(trimmed, "")), None, trimmed)


def _fits(values: pa.Array, kind: Kind) -> bool:
    if kind.pattern and not pc.all(pc.match_substring_regex(values, kind.pattern)).as_py():
        return False
    if kind in (Kind.WHOLE, Kind.NUMBER, Kind.COMMA):
        return True
    if kind is Kind.INSTANT:
        return bool(parse_times(values).null_count == 0)
    try:
        values.cast(kind.type)
    except pa.ArrowInvalid:
        return False
    return True
