"""Writes what the Python client has in common with the server or with itself.

`python -m clients.generate` writes its requests, answers and limits, made of those in `service/api`, and its sync client, made of
the async one. A test holds that the committed files are what this makes.
"""

import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from textwrap import indent

import msgspec
from msgspec import inspect as kinds

from docs.generate_api import FEATURE, PROPERTY, descriptions, field_comments, routes, structs
from service.api import batches, errors, items, schemas
from twotower.planning.training_plan import TrainingPlan

PACKAGE = Path(__file__).parent / "python" / "twotower_client"
MAX_LINE = 130
MADE = "Made by clients/generate.py from the types of the server: run it after a change there."
SYNC = {
    "import asyncio\n": "",
    "AsyncClient": "Client",
    "AsyncIterator": "Iterator",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "aclose": "close",
    "asyncio.sleep": "time.sleep",
    "tasks": "threads",
}
PLAIN: dict[type[kinds.Type], str] = {
    kinds.StrType: "str",
    kinds.IntType: "int",
    kinds.FloatType: "float",
    kinds.BoolType: "bool",
    kinds.NoneType: "None",
}
REQUESTS_HEAD = f'''"""What is sent to the server, as keyword arguments and dictionaries.

{MADE}
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, Required, TypedDict

Property = str | int | float | bool | None
Feature = str | int | float | bool | Sequence[str | int | float | None] | None
Moment = datetime | int | str  # with its zone; epoch milliseconds; RFC 3339
'''
PLAN_HEAD = f'''"""What the server answers to a question for a training plan.

{MADE}
"""

import msgspec
'''
LIMITS_HEAD = f'''"""How many elements the server takes in one request.

{MADE}
"""

'''
ANSWERS_HEAD = f'''"""What the server answers. Fields that a newer server adds are ignored.

{MADE}
"""

from typing import Any

import msgspec
'''


def files() -> dict[Path, str]:
    """Every file that is made, with its text."""
    table = [route for route in routes() if route.gives]
    asked = [kind for route in table if (kind := route.takes or route.asks)]
    given = [kind for route in table if (kind := route.gives) not in (None, TrainingPlan)]
    given += [errors.ErrorBody, schemas.AllRejected]
    texts = {
        "requests.py": REQUESTS_HEAD + "".join(request_types(asked)),
        "answers.py": ANSWERS_HEAD + "".join([*answer_types(given), *statuses()]),
        "limits.py": LIMITS_HEAD + "".join(limits()),
        "plans.py": PLAN_HEAD + "".join(answer_types([TrainingPlan])),
        "client.py": sync_of((PACKAGE / "async_client.py").read_text()),
    }
    return {PACKAGE / name: formatted(name, text) for name, text in texts.items()}


def request_types(asked: Sequence[type]) -> Iterator[str]:
    """TypedDicts of the bodies and queries. A body with one field is the argument of a method, so it has none."""
    for kind in reached(asked):
        if len(struct(kind).fields) > 1:
            yield f"\n\nclass {kind.__name__}({name_of(base_of(kind), 'TypedDict')}, total=False):\n"
            yield from lines(kind, lambda field: f"Required[{sent(field.type)}]" if field.required else sent(field.type))


def answer_types(given: Sequence[type]) -> Iterator[str]:
    """Structs of the answers."""
    for kind in reached(given):
        yield f"\n\nclass {kind.__name__}({name_of(base_of(kind), 'msgspec.Struct')}, frozen=True, kw_only=True):\n"
        yield from lines(kind, lambda field: received(field.type) + ("" if field.required else f" = {field.default!r}"))


def statuses() -> Iterator[str]:
    """The status of each error code."""
    yield "\n\nSTATUS: dict[str, int] = {\n"
    yield from (f'    "{code}": {status},\n' for code, status in errors.STATUS.items())
    yield "}\n"


def limits() -> Iterator[str]:
    """The most events, changed items and requests of one body."""
    most = {"MAX_EVENTS": schemas.MAX_EVENTS, "MAX_ITEMS": items.MAX_CHANGES, "MAX_BATCH": batches.MAX_BATCH}
    yield from (f"{name} = {value}\n" for name, value in most.items())


def reached(kinds_of_bodies: Sequence[type]) -> list[type]:
    """These types, those that they stand on and those of their fields: each once, after those that it names."""
    found: dict[type, None] = {}

    def visit(kind: type) -> None:
        inside = [one for field in struct(kind).fields for one in structs(field.type)]
        for one in [*filter(None, [base_of(kind)]), *inside]:
            visit(one)
        found.setdefault(kind)

    for kind in kinds_of_bodies:
        visit(kind)
    return list(found)


def struct(kind: type) -> kinds.StructType:
    """A type with its fields."""
    described = kinds.type_info(kind)
    assert isinstance(described, kinds.StructType)
    return described


def base_of(kind: type) -> type | None:
    """The type that it takes fields from, if any."""
    bases = [base for base in kind.__mro__[1:] if issubclass(base, msgspec.Struct) and base.__struct_fields__]
    return bases[0] if bases else None


def name_of(kind: type | None, otherwise: str) -> str:
    """The name of a type, or another word where there is none."""
    return kind.__name__ if kind else otherwise


def lines(kind: type, annotation: Callable[[kinds.Field], str]) -> Iterator[str]:
    """Docstring and fields of a class, each field with the server's comment."""
    doc = inspect.cleandoc(kind.__doc__ or "")
    yield indent(f'"""{doc}' + ('\n"""' if "\n" in doc else '"""'), "    ") + "\n\n"
    base = base_of(kind)
    inherited = {field.name for field in struct(base).fields} if base else set()
    said = field_comments(kind)
    for field in struct(kind).fields:
        if field.name not in inherited:
            line = f"    {field.encode_name}: {annotation(field)}"
            comment = said.get(field.name) or ". ".join(descriptions(field.type))
            beside = f"{line}  # {comment}" if comment else line
            yield f"{beside}\n" if len(beside) <= MAX_LINE else f"    # {comment}\n{line}\n"


def sent(kind: kinds.Type) -> str:
    """The type of what a caller gives. Limits are left to the server, which names the field."""
    match kind:
        case _ if kind == PROPERTY:
            return "Property"
        case _ if kind == FEATURE:
            return "Feature"
        case kinds.UnionType(types=types) if any(isinstance(bare(one), kinds.DateTimeType) for one in types):
            return "Moment" + " | None" * any(isinstance(one, kinds.NoneType) for one in types)
        case kinds.ListType(item_type=item):
            return f"Sequence[{sent(item)}]"
        case kinds.DictType(value_type=value):
            return f"Mapping[str, {sent(value)}]"
        case kinds.LiteralType(values=values):
            return f"Literal[{', '.join(map(repr, values))}]"
        case _:
            return plain(kind, sent)


def received(kind: kinds.Type) -> str:
    """The type of what a caller gets. A word of a fixed set is any text here, so that a newer server may add one."""
    match kind:
        case kinds.ListType(item_type=item):
            return f"list[{received(item)}]"
        case kinds.DictType(value_type=value):
            return f"dict[str, {received(value)}]"
        case kinds.LiteralType():
            return "str"
        case _:
            return plain(kind, received)


def plain(kind: kinds.Type, inner: Callable[[kinds.Type], str]) -> str:
    """The type in Python where requests and answers do not differ."""
    match kind:
        case kinds.Metadata(type=of):
            return inner(of)
        case kinds.UnionType(types=types):
            return " | ".join(dict.fromkeys(map(inner, types)))
        case kinds.StructType(cls=cls):
            return cls.__name__
        case kinds.AnyType():
            return "Any"
        case _:
            return PLAIN[type(kind)]


def bare(kind: kinds.Type) -> kinds.Type:
    """The type without its limits."""
    return kind.type if isinstance(kind, kinds.Metadata) else kind


def sync_of(source: str) -> str:
    """The same client without asyncio."""
    made = re.sub(r"\b(async |await )", "", source)
    for word, instead in SYNC.items():
        made = made.replace(word, instead)
    _, _, rest = made.partition('"""\n')
    return f'"""The client. Made by clients/generate.py from `async_client.py`: change that, then run it."""\n{rest}'


def formatted(name: str, text: str) -> str:
    """The text as ruff writes it, with its imports in order."""
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check", "--fix-only", "--quiet", "--select", "F401,I"], ["format", "--quiet"]):
        line = [*ruff, *command, "--stdin-filename", str(PACKAGE / name), "-"]
        text = subprocess.run(line, input=text, capture_output=True, text=True, check=True).stdout
    return text


if __name__ == "__main__":
    for path, made in files().items():
        path.write_text(made)
