"""The reference part of docs/api.md, made from the route table, the types that bodies are decoded into, and the error codes.

`.venv/bin/python docs/generate_api.py` writes it. A test holds that the committed page is what this makes.
"""

import ast
import importlib
import inspect
import io
import json
import pkgutil
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import msgspec
from msgspec import NODEFAULT
from msgspec import inspect as kinds

import service.routes
from service.api import errors, schemas
from service.http.route_table import Route

PAGE = Path(__file__).with_name("api.md")
MARK = "<!-- What follows is made by docs/generate_api.py from the types in service/api. -->\n"
SCOPES = ("recommend", "events:write", "users:delete", "admin", "metrics", "open")  # the order of the table
EXAMPLE = errors.ErrorDetail(
    code="invalid_request",
    message="Object contains unknown field `num_resuts`",
    request_id="ba95f0af4024dc411930856c1eb72e45",
    field="num_resuts",
)
ID = kinds.type_info(schemas.Id)
FEATURE = kinds.type_info(schemas.Feature)
PROPERTY = kinds.type_info(schemas.Property)


def page() -> str:
    """The whole page: what is written by hand, then what is made."""
    return PAGE.read_text().partition(MARK)[0] + MARK + "\n" + "\n".join(reference(routes()))


def routes() -> list[Route]:
    """Every route of the server. The handlers stand on nothing: only what the table says of them is read."""
    found: list[Route] = []
    for module in pkgutil.iter_modules(service.routes.__path__, "service.routes."):
        for owner in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(owner) and owner.__module__ == module.name and "routes" in vars(owner):
                parts: Any = owner(*(MagicMock() for _ in inspect.signature(owner).parameters))
                found.extend(parts.routes())
    assert {route.scope for route in found} == set(SCOPES), "routes are made elsewhere by now: correct how they are found"
    return sorted(found, key=lambda r: (SCOPES.index(r.scope or "open"), r.paths[0].count("{"), r.paths[0], r.method))


def reference(table: list[Route]) -> Iterator[str]:
    """The lines of the reference."""
    yield from ["## Routes", "", "| route | body or query | answer | scope | port |", "|---|---|---|---|---|"]
    for route in table:
        paths = ", ".join(f"`{path.replace(':path', '')}`" for path in route.paths)
        port = "admin" if route.private else "public"
        answer = f"{route.status} {_linked(route.gives)}".strip()
        yield f"| {route.method} {paths} | {_linked(route.takes or route.asks)} | {answer} | {route.scope} | {port} |"
    yield from ["", "Several paths in one row are the same route. A route with the scope `open` needs no key.", ""]
    yield from ["`/livez` and `/readyz` are on both ports. A server without an admin port has all routes on the public port.", ""]
    yield from ["## Bodies and queries", "", "A field with an empty default may be left out.", ""]
    yield from _types([asked for r in table if (asked := r.takes or r.asks)], answers=False)
    yield from ["## Answers", "", *_types([r.gives for r in table if r.gives], answers=True)]
    yield from ["## Errors", "", "Every answer that is not a success has this body:", ""]
    body = msgspec.json.format(msgspec.json.encode(errors.ErrorBody(error=EXAMPLE))).decode()
    yield from ["```json", body, "```", "", "| status | code | meaning |", "|---|---|---|"]
    meanings = _comments(inspect.getsource(errors))
    for number, line in enumerate(inspect.getsource(errors).splitlines(), 1):
        if told := re.fullmatch(r' +"(\w+)": (\d+),.*', line):
            yield f"| {told[2]} | `{told[1]}` | {meanings[number]} |"
    yield ""
    yield f"Every 503 comes with `Retry-After: {errors.RETRY_AFTER_S}`."


def _types(wanted: list[type[msgspec.Struct]], answers: bool) -> Iterator[str]:
    """A section for each type, for those it has in its fields, and for the fields it shares with others."""
    queue, done = list(dict.fromkeys(wanted)), set[type]()
    while queue:
        kind = queue.pop(0)
        if kind in done:
            continue
        done.add(kind)
        base = next(
            (b for b in kind.__mro__[1:] if issubclass(b, msgspec.Struct) and b is not msgspec.Struct and b.__struct_fields__),
            None,
        )
        described = kinds.type_info(kind)
        assert isinstance(described, kinds.StructType)
        fields = [field for field in described.fields if base is None or field.name not in base.__struct_fields__]
        yield f"### {kind.__name__}"
        yield ""
        yield inspect.cleandoc(kind.__doc__ or "")
        if base:
            yield from ["", f"It also has the fields of {_linked(base)}."]
        third = "may be null" if answers else "default"
        yield from ["", f"| field | type | {third} | meaning |", "|---|---|---|---|"]
        said = field_comments(kind)
        inside: list[type] = [base] if base else []
        for field in fields:
            meaning = ". ".join(m for m in (said.get(field.name, ""), *descriptions(field.type)) if m)
            given = ("yes" if _may_be_null(field.type) else "") if answers else _default(field)
            yield f"| `{field.encode_name}` | {_name(field.type)} | {given} | {meaning} |"
            inside.extend(structs(field.type))
        yield ""
        queue[:0] = [one for one in inside if one not in done]


def _linked(kind: type | None) -> str:
    return f"[{kind.__name__}](#{kind.__name__.lower()})" if kind else ""


def _default(field: kinds.Field) -> str:
    if field.required:
        return "required"
    value: Any = field.default if field.default is not NODEFAULT else field.default_factory()
    return "" if value is None else f"`{json.dumps(value)}`"


def _name(kind: kinds.Type) -> str:
    """A type in words, with its limits."""
    match kind:
        case _ if kind == ID:
            return "id"
        case _ if kind in (FEATURE, PROPERTY):
            return "value"
        case kinds.Metadata(type=inner):
            return _name(inner)
        case kinds.UnionType(types=types) if any(isinstance(_bare(t), kinds.DateTimeType) for t in types):
            return "moment"
        case kinds.UnionType(types=types):
            return " or ".join(dict.fromkeys(_name(t) for t in types if not isinstance(t, kinds.NoneType)))
        case kinds.ListType(item_type=item, max_length=most):
            return f"list of {_name(item)}" + (f", at most {most:,}" if most is not None else "")
        case kinds.DictType(value_type=value, max_length=most):
            return f"object of {_name(value)}" + (f", at most {most:,} fields" if most is not None else "")
        case kinds.StructType(cls=cls):
            return _linked(cls)
        case kinds.LiteralType(values=values):
            return ", ".join(f"`{value}`" for value in values)
        case kinds.StrType(min_length=least, max_length=most):
            return "text" + (f", {f'{least} to' if least else 'at most'} {most:,} characters" if most is not None else "")
        case kinds.IntType() | kinds.FloatType():
            return ("integer" if isinstance(kind, kinds.IntType) else "number") + _range(kind)
        case kinds.BoolType():
            return "true or false"
        case kinds.NoneType():
            return "null"
        case _:
            return "any"


def _range(kind: kinds.IntType | kinds.FloatType) -> str:
    if kind.le is not None and abs(kind.le) >= schemas._EXACT:
        return ""
    if kind.gt is not None and kind.le is not None:
        return f", above {kind.gt:,} to {kind.le:,}"
    return f", {kind.ge:,} to {kind.le:,}" if kind.ge is not None and kind.le is not None else ""


def _may_be_null(kind: kinds.Type) -> bool:
    return isinstance(kind, kinds.UnionType) and any(isinstance(one, kinds.NoneType) for one in kind.types)


def _bare(kind: kinds.Type) -> kinds.Type:
    return kind.type if isinstance(kind, kinds.Metadata) else kind


def _parts(kind: kinds.Type) -> Iterator[kinds.Type]:
    """A type and the types inside it, those of other structs left out."""
    yield kind
    match kind:
        case kinds.Metadata(type=inner):
            yield from _parts(inner)
        case kinds.UnionType(types=types):
            for one in types:
                yield from _parts(one)
        case kinds.ListType(item_type=item):
            yield from _parts(item)
        case kinds.DictType(value_type=value):
            yield from _parts(value)


def structs(kind: kinds.Type) -> list[type]:
    """The types of ours inside a type."""
    return [part.cls for part in _parts(kind) if isinstance(part, kinds.StructType)]


def descriptions(kind: kinds.Type) -> list[str]:
    """What the annotations of the type say; ids and moments are explained once for the page."""
    if any(isinstance(part, kinds.DateTimeType) for part in _parts(kind)):
        return []
    named = [part for part in _parts(kind) if isinstance(part, kinds.Metadata) and part != ID]
    return [text for part in named if (text := (part.extra_json_schema or {}).get("description"))]


def field_comments(kind: type) -> dict[str, str]:
    """What the comment after each field says."""
    source = inspect.cleandoc("\n" + inspect.getsource(kind))
    comments = _comments(source)
    (body,) = ast.parse(source).body
    assert isinstance(body, ast.ClassDef)
    fields = [node for node in body.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    return {node.target.id: comments[node.end_lineno or 0] for node in fields if node.end_lineno in comments}  # type: ignore[union-attr]


def _comments(source: str) -> dict[int, str]:
    """The comments of a source by their line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.removeprefix("# ") for token in tokens if token.type == tokenize.COMMENT}


if __name__ == "__main__":
    PAGE.write_text(page())
