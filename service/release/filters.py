"""Filter expressions over item attributes: `price < 5 and department in ("tea", "coffee") and "organic" in tags`.

The grammar is a small part of Python's. The standard library parses it, and each comparison is evaluated for a whole column at
once. The only names are those of columns, and no function can be called. A name that Python would not read as one, such as
`brand name` or `class`, is written in backticks, as in MySQL and BigQuery; a backtick within it is written twice. A missing value
matches only `column == None`; any other comparison with it stays unmatched, also under `not`.

N: items
"""

import ast
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from keyword import iskeyword
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from service.api.schemas import MAX_FILTER_CHARACTERS

Mask = npt.NDArray[np.bool_]

# A text, or a name in backticks. A backtick within a text is part of the text.
_QUOTED = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|`((?:[^`]|``)+)`""", re.DOTALL)
_PLACEHOLDER = "quoted_name_{}_"
KEPT_MASKS = 64  # one byte per item each: 6 MB at 92,331 items
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
_MIRRORED: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}


class InvalidFilter(ValueError):
    """The expression cannot be evaluated. The message says why, and lists the columns."""


class Filters:
    """Evaluates filters on one item table and caches the last masks. Not thread-safe: only the engine's thread may use it."""

    def __init__(self, items: pa.Table) -> None:
        self._columns = {name: _plain(items.column(name)) for name in items.column_names}
        self._masks: OrderedDict[str, Mask] = OrderedDict()

    def mask(self, expression: str) -> Mask:
        """Which items match, [N], read-only; InvalidFilter says what is wrong with the expression."""
        known = self._masks.pop(expression, None)
        mask = self._masks[expression] = self._evaluate(expression) if known is None else known
        if len(self._masks) > KEPT_MASKS:
            self._masks.popitem(last=False)
        return mask

    def _evaluate(self, expression: str) -> Mask:
        try:
            found = evaluate(parse(expression), self._columns)
        except RecursionError:
            raise self._invalid("it is nested too deeply") from None
        except (InvalidFilter, SyntaxError, MemoryError, ValueError, OverflowError, TypeError, pa.ArrowException) as error:
            raise self._invalid(str(error) or type(error).__name__) from error
        mask: Mask = found.fill_null(False).to_numpy(zero_copy_only=False)
        mask.setflags(write=False)
        return mask

    def _invalid(self, reason: str) -> InvalidFilter:
        columns = ", ".join(f"{quoted(name)} ({column.type})" for name, column in self._columns.items())
        return InvalidFilter(f"{reason}. Columns are {columns}.")


class JoinedFilters:
    """Evaluates filters on two item tables, and joins the masks: first the release's items, then the added ones."""

    def __init__(self, first: Filters, second: Filters) -> None:
        self._parts = first, second

    def mask(self, expression: str) -> Mask:
        """Which items match, [N]; InvalidFilter says what is wrong with the expression."""
        return np.concatenate([part.mask(expression) for part in self._parts])


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """The column as one plain array, with dictionaries decoded and NaN as null: NaN means a missing value."""
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), None, array)
    return array


def parse(expression: str) -> ast.expr:
    """The expression's syntax tree; SyntaxError, ValueError, RecursionError or MemoryError when it cannot be parsed."""
    if len(expression) > MAX_FILTER_CHARACTERS:
        raise InvalidFilter(f"it has {len(expression)} characters, but at most {MAX_FILTER_CHARACTERS} are allowed")
    names: list[str] = []

    def placeholder(found: re.Match[str]) -> str:
        if found[1] is not None:
            return found[1]
        names.append(found[2].replace("``", "`"))
        return f" {_PLACEHOLDER.format(len(names) - 1)} "

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's warnings about odd escapes are meant for programmers, not for our callers
        tree = ast.parse(_QUOTED.sub(placeholder, expression).strip(), mode="eval").body
    written = {_PLACEHOLDER.format(place): name for place, name in enumerate(names)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = written.get(node.id, node.id)
    return tree


def quoted(name: str) -> str:
    """The name as a filter has to write it."""
    return name if name.isidentifier() and not iskeyword(name) else f"`{name.replace('`', '``')}`"


def evaluate(node: ast.expr, columns: dict[str, pa.Array]) -> pa.Array:
    """For every item, [N]: true, false, or null when a missing value makes the result unknown."""
    match node:
        case ast.BoolOp(op=both_or_any, values=values):
            combine = pc.and_kleene if isinstance(both_or_any, ast.And) else pc.or_kleene
            result = evaluate(values[0], columns)
            for value in values[1:]:
                result = combine(result, evaluate(value, columns))
            return result
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return pc.invert(evaluate(operand, columns))
        case ast.Compare(left=left, ops=ops, comparators=rights):
            result = compare(left, ops[0], rights[0], columns)
            for low, op, high in zip(rights, ops[1:], rights[1:], strict=False):
                result = pc.and_kleene(result, compare(low, op, high, columns))
            return result
        case ast.Name(id=name) if pa.types.is_boolean(_column(name, columns).type):
            return columns[name]
        case _:
            raise InvalidFilter(f"`{ast.unparse(node)}` is not a comparison")


def compare(left: ast.expr, op: ast.cmpop, right: ast.expr, columns: dict[str, pa.Array]) -> pa.Array:
    """One comparison of a column with a constant, a list of constants or another column; InvalidFilter for any other."""
    match left, op, right:
        case ast.Constant(), ast.In() | ast.NotIn(), ast.Name(id=name):
            found = _contains(_column(name, columns), name, left.value)
            return pc.invert(found) if isinstance(op, ast.NotIn) else found
        case ast.Name(id=name), ast.In() | ast.NotIn(), ast.List() | ast.Tuple() | ast.Set():
            found = _is_in(_column(name, columns), name, [_constant(e) for e in right.elts])
            return pc.invert(found) if isinstance(op, ast.NotIn) else found
        case ast.Name(id=name), _, ast.Name(id=other) if type(op) in _COMPARE:
            return _COMPARE[type(op)](_column(name, columns), _column(other, columns))
        case ast.Name(id=name), _, _ if type(op) in _COMPARE:
            return _against(_column(name, columns), name, type(op), _constant(right))
        case _, _, ast.Name(id=name) if type(op) in _COMPARE:
            return _against(_column(name, columns), name, _MIRRORED.get(type(op), type(op)), _constant(left))
        case _:
            raise InvalidFilter(f"`{ast.unparse(ast.Compare(left, [op], [right]))}` does not compare a column")


def _column(name: str, columns: dict[str, pa.Array]) -> pa.Array:
    if name not in columns:
        raise InvalidFilter(f"there is no column {name!r}")
    return columns[name]


def _constant(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | bool() | int() | float() | None):
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case _:
            raise InvalidFilter(f"`{ast.unparse(node)}` is not a string, a number, True, False or None")


def _scalar(value: Any, kind: pa.DataType, name: str) -> pa.Scalar:
    """The constant in a type that can be compared with a column of type `kind`; InvalidFilter if there is none."""
    text, number = isinstance(value, str), isinstance(value, int | float) and not isinstance(value, bool)
    if pa.types.is_temporal(kind) and text:
        moment = datetime.fromisoformat(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        stamp = pa.scalar(moment, pa.timestamp("us", "UTC"))
        return stamp if getattr(kind, "tz", None) else stamp.cast(pa.timestamp("us"))
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if (text and _is_text(kind)) or (number and is_number) or (isinstance(value, bool) and pa.types.is_boolean(kind)):
        return pa.scalar(value)
    raise InvalidFilter(f"column {name!r} holds {kind}, which cannot be compared with {value!r}")


def _against(column: pa.Array, name: str, op: type[ast.cmpop], value: Any) -> pa.Array:
    if value is None and op in (ast.Eq, ast.NotEq):
        return pc.is_null(column) if op is ast.Eq else pc.is_valid(column)
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("us"))
    return _COMPARE[op](column, _scalar(value, column.type, name))


def _is_in(column: pa.Array, name: str, values: list[Any]) -> pa.Array:
    texts = [v for v in values if isinstance(v, str)] if _is_text(column.type) else []
    # A list of texts is looked up at once, because a hundred single comparisons would delay every request.
    found = pc.is_in(column, value_set=pa.array(texts, column.type)) if texts else pa.array(np.zeros(len(column), bool))
    result = pc.if_else(pc.is_valid(column), found, None)
    for value in values:
        if value not in texts:
            result = pc.or_kleene(result, _against(column, name, ast.Eq, value))
    return result


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _contains(column: pa.Array, name: str, value: Any) -> pa.Array:
    """`value in column`: the value is an element of a list column, or a part of a text column."""
    if _is_text(column.type):
        return pc.match_substring(column, _scalar(value, column.type, name).as_py())
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        raise InvalidFilter(f"column {name!r} holds {column.type}: `in` looks into lists and texts")
    hits = pc.equal(pc.list_flatten(column), _scalar(value, column.type.value_type, name)).fill_null(False)
    found = np.zeros(len(column), bool)
    found[pc.list_parent_indices(column).filter(hits).to_numpy(zero_copy_only=False)] = True
    return pc.if_else(pc.is_valid(column), pa.array(found), None)
