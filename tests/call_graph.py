"""Which functions a command can reach, by the names in the source: no module is imported, and nothing is run.

A name leads to the function, class or variable that it stands for where it is used. A method is reached by an attribute of its
name, if its class is reached too. `forward`, `backward` and methods with two underscores are called by Python or torch, so a
class brings them along. More may be found than ever runs, never less: only a name made at run time would be missed.
"""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from twotower.cli import COMMANDS, PACKAGES

ROOT = Path(__file__).parents[1]
CALLED_BY_OTHERS = {"forward", "backward"}

Node = tuple[str, str]  # module, and the name in it: "function", "Class", "Class.method" or "VARIABLE"


class Graph:
    """The definitions of some modules, and which names each uses."""

    def __init__(self, sources: dict[str, str]) -> None:
        self.names: dict[Node, set[str]] = {}  # names that a definition uses
        self.attributes: dict[Node, set[str]] = {}
        self.imports: dict[str, dict[str, Node]] = {}
        self.kernels: set[Node] = set()
        for module, source in sources.items():
            self._read(module, ast.parse(source))

    def _read(self, module: str, tree: ast.Module) -> None:
        self.imports[module] = {
            alias.asname or alias.name: (str(node.module), alias.name)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for node in tree.body:
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    self._define((module, node.name), node)
                    if any(isinstance(mark, ast.Name) and mark.id == "jit" for mark in node.decorator_list):
                        self.kernels.add((module, node.name))
                case ast.ClassDef(name=name):
                    methods = [m for m in node.body if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef)]
                    beside = [m for m in node.body if m not in methods] + node.bases + node.decorator_list
                    self._define((module, name), *beside)
                    for method in methods:
                        self._define((module, f"{name}.{method.name}"), method)
                case ast.Assign(targets=targets):
                    for target in targets:
                        if isinstance(target, ast.Name):
                            self._define((module, target.id), node.value)
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    self._define((module, name), value)

    def _define(self, node: Node, *parts: ast.AST) -> None:
        used = [found for part in parts for found in without_annotations(part)]
        self.names[node] = {found.id for found in used if isinstance(found, ast.Name)}
        self.attributes[node] = {found.attr for found in used if isinstance(found, ast.Attribute)}

    def resolve(self, module: str, name: str) -> Node | None:
        """The definition that a name stands for in a module; None for a name that is not ours."""
        if (module, name) in self.names:
            return module, name
        found = self.imports.get(module, {}).get(name)
        return found if found in self.names else None

    def reached(self, entries: Iterable[Node], without: Iterable[Node] = ()) -> set[Node]:
        """Everything that the entries can reach; `without` are definitions that count as missing."""
        missing, seen, attributes = frozenset(without), set[Node](), set[str]()
        methods = [node for node in self.names if "." in node[1]]
        waiting = list(entries)
        while waiting:
            while waiting:
                node = waiting.pop()
                if node not in seen and node not in missing:
                    seen.add(node)
                    attributes |= self.attributes[node]
                    waiting += [found for name in self.names[node] if (found := self.resolve(node[0], name))]
            methods = [method for method in methods if method not in seen and method not in missing]
            waiting = [method for method in methods if self._is_called(method, seen, attributes)]
        return seen

    def _is_called(self, method: Node, seen: set[Node], attributes: set[str]) -> bool:
        owner, _, name = method[1].partition(".")
        if (method[0], owner) not in seen:
            return False
        return name in attributes or name in CALLED_BY_OTHERS or name.startswith("__")


def without_annotations(part: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a definition, without the types that its arguments and variables are said to have."""
    for name, value in ast.iter_fields(part):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield child
                yield from without_annotations(child)
    if isinstance(part, ast.Name | ast.Attribute):
        yield part


@cache
def our_graph() -> Graph:
    """The graph of all packages."""
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return Graph({".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text() for path in paths})


def entry_of(command: str) -> Node:
    """The function that a command begins with."""
    module, function = COMMANDS[command].target.split(":")
    return module, function
