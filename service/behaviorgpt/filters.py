"""The client's filters, which are objects of any form, written as filter expressions.

`{"brand": "Acme", "price": {"min": 5, "lt": 20}, "categories": ["Tea", "Coffee"]}`: all must hold. A value must be equal or, for
a column of lists, among its values; a list gives several values of which one must match; null matches a missing value. An item
has the attribute `catalog_id` besides its own: the catalogue that it is in.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from service.api.errors import ApiError
from service.api.schemas import MAX_FILTER_CHARACTERS
from service.release.filters import Filters, quoted
from service.uploads.releases import CATALOGUE
from twotower.model.catalogue import ID_FIELD

_ORDER = {"min": ">=", "gte": ">=", "max": "<=", "lte": "<=", "gt": ">", "lt": "<"}
_OTHER = ("ne", "not_in")
_NOTHING = f"{ID_FIELD} == None"  # every item has an id


def expression_of(
    filters: Mapping[str, Any], items: pa.Schema, features_of: Mapping[str, tuple[str, ...]], catalog_ids: Sequence[str]
) -> str | None:
    """The expression that holds where all filters do; None without filters. `features_of` has other names of columns.

    The items are of the catalogues `catalog_ids`; those of several have a column that says of which. ApiError bad_request for a
    name that is no column, and for a condition of another form.
    """
    parts = [
        _one(name, condition, _columns_of(name, items, features_of), items)
        for name, condition in filters.items()
        if name != CATALOGUE or len(catalog_ids) > 1
    ]
    if CATALOGUE in filters and len(catalog_ids) == 1 and not _is_in(catalog_ids[0], filters[CATALOGUE]):
        parts = [_NOTHING]
    text = " and ".join(parts)
    if len(text) > MAX_FILTER_CHARACTERS:
        raise _refused(f"together they are too long: as an expression at most {MAX_FILTER_CHARACTERS} characters are allowed")
    return text or None


def _is_in(catalog_id: str, condition: Any) -> bool:
    """Whether a condition on the catalogue holds for a catalogue."""
    one = pa.table({CATALOGUE: [catalog_id]})
    return bool(Filters(one).mask(_one(CATALOGUE, condition, (CATALOGUE,), one.schema))[0])


def _columns_of(name: str, items: pa.Schema, features_of: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    found = (name,) if name in items.names else features_of.get(name, ())
    if not found:
        known = dict.fromkeys([*features_of, *items.names, CATALOGUE])
        raise _refused(f"items have no attribute {name!r}; they have {', '.join(known)}")
    return found


def _one(name: str, condition: Any, columns: tuple[str, ...], items: pa.Schema) -> str:
    """The expression of one filter."""
    if not isinstance(condition, dict):
        return _matches(columns, condition, items)
    if not condition:
        raise _refused(f"{name!r} has an empty condition")
    return " and ".join(_compared(name, word, value, columns, items) for word, value in condition.items())


def _compared(name: str, word: str, value: Any, columns: tuple[str, ...], items: pa.Schema) -> str:
    if word in _ORDER:
        return _any_of(columns, lambda column: f"{quoted(column)} {_ORDER[word]} {_literal(value)}")
    if word in _OTHER:
        return f"not {_matches(columns, value, items)}"
    raise _refused(f"{name!r} has the condition {word!r}, which is none of {', '.join((*_ORDER, *_OTHER))}")


def _matches(columns: tuple[str, ...], value: Any, items: pa.Schema) -> str:
    """The expression that one of the columns has the value, or one of the values of a list."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise _refused("an empty list matches nothing: leave the filter out")

    def match(column: str) -> str:
        name, kind = quoted(column), items.field(column).type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            return "(" + " or ".join(f"{name} == None" if v is None else f"{_literal(v)} in {name}" for v in values) + ")"
        if len(values) > 1:
            return f"{name} in ({', '.join(map(_literal, values))})"
        return f"{name} == {_literal(values[0])}"

    return _any_of(columns, match)


def _any_of(columns: tuple[str, ...], write: Callable[[str], str]) -> str:
    return "(" + " or ".join(map(write, columns)) + ")"


def _literal(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    raise _refused(f"{value!r} is no text, number, true, false or null")


def _refused(reason: str) -> ApiError:
    return ApiError("bad_request", f"filters: {reason}", "filters")
