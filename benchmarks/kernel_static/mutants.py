"""Makes mutants: copies of a kernel's source with one small error each, such as a programmer could make.

Only bodies of functions under `@jit` change. Errors that keep a kernel from running at all are not made (a block that is no
power of two, an axis that does not exist), because every test would find them.
"""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
_ADDED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_DROPPED = (
    ast.Mult,
    ast.Div,
    ast.BitAnd,
    ast.BitOr,
    ast.Mod,
)  # one operand is dropped: a scale, a mask, a bit
_CALLED = {
    "maximum": "minimum",
    "minimum": "maximum",
    "max": "min",
    "min": "max",
    "exp2": "exp",
    "exp": "exp2",
    "log2": "log",
    "log": "log2",
    "sum": "max",
}
_UNTOUCHED = {"arange", "static_assert", "multiple_of", "max_contiguous", "assume", "reshape", "trans"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """A source with one error. Its name has no line number, so it stays valid when other lines change."""

    name: str
    source: str


def mutants(source: str) -> list[Mutant]:
    """All mutants of all kernels in the source of a file."""
    tree, seen, result = ast.parse(source), dict[str, int](), list[Mutant]()
    for kernel in (node for node in tree.body if isinstance(node, ast.FunctionDef) and _is_kernel(node)):
        for statement in kernel.body:
            for node in _places(statement):
                for changed in _changes(node):
                    before, after = ast.unparse(node), ast.unparse(changed)
                    name = f"{kernel.name}: {before} -> {after}"
                    seen[name] = seen.get(name, 0) + 1
                    name += f" (#{seen[name]})" if seen[name] > 1 else ""
                    result.append(Mutant(name, _replaced(source, node, after)))
    return result


def _is_kernel(function: ast.FunctionDef) -> bool:
    return any(isinstance(decorator, ast.Name) and decorator.id == "jit" for decorator in function.decorator_list)


def _places(node: ast.AST) -> Iterator[ast.expr | ast.AugAssign]:
    """The nodes that may change, outermost first."""
    if isinstance(node, ast.Call) and _called(node) in _UNTOUCHED:
        return
    if isinstance(node, ast.expr | ast.AugAssign):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _places(child)


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _changes(node: ast.expr | ast.AugAssign) -> Iterator[ast.expr | ast.AugAssign]:
    """All copies of a node with one error."""
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in _COMPARED:
            yield _with(node, ops=[_COMPARED[type(operator)]()])
        case ast.BinOp(left=left, op=operator, right=right):
            if type(operator) in _ADDED:
                yield _with(node, op=_ADDED[type(operator)]())
            if isinstance(operator, _DROPPED):
                yield left
                yield right
            for side in ("left", "right"):
                yield from (_with(node, **{side: value}) for value in _constants(getattr(node, side)))
        case ast.AugAssign(op=operator) if type(operator) in _ADDED:
            yield _with(node, op=_ADDED[type(operator)]())
        case ast.AugAssign(op=ast.Mult()):
            yield _with(node, op=ast.Div())
        case ast.UnaryOp(op=ast.USub() | ast.Invert(), operand=operand) if not isinstance(operand, ast.Constant):
            yield operand
        case ast.Call():
            yield from _calls(node)


def _calls(node: ast.Call) -> Iterator[ast.expr]:
    name = _called(node)
    if name in _CALLED and isinstance(node.func, ast.Attribute):
        yield _with(node, func=_with(node.func, attr=_CALLED[name]))
    if name == "where" and len(node.args) == 3:
        condition, first, second = node.args
        yield _with(node, args=[condition, second, first])
    for place, keyword in enumerate(node.keywords):
        rest = node.keywords[:place] + node.keywords[place + 1 :]
        if keyword.arg == "mask":
            yield _with(node, keywords=[other for other in rest if other.arg != "other"])
        if keyword.arg == "other":
            for value in _constants(keyword.value):
                yield _with(node, keywords=[*rest, ast.keyword("other", value)])


def _constants(node: ast.expr) -> Iterator[ast.expr]:
    """A number changed by one; minus infinity made finite."""
    match node:
        case ast.Constant(value=bool()):
            return
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1)
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value=str())]):
            yield ast.Constant(0.0)


def _with(node: ast.AST, **fields: object) -> ast.expr:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    assert isinstance(changed, ast.expr | ast.AugAssign)
    return changed  # type: ignore[return-value]


def _replaced(source: str, node: ast.AST, text: str) -> str:
    """The source with the text of one node replaced. Everything else, and the line numbers before it, stay the same."""
    assert isinstance(node, ast.expr | ast.stmt)
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    lines = source.encode().splitlines(keepends=True)
    before = b"".join(lines[: node.lineno - 1]) + lines[node.lineno - 1][: node.col_offset]
    after = lines[node.end_lineno - 1][node.end_col_offset :] + b"".join(lines[node.end_lineno :])
    bracketed = text if isinstance(node, ast.stmt) else f"({text})"
    return (before + bracketed.encode() + after).decode()
