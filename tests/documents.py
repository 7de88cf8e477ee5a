"""The documentation as its tests read it: blocks, tables, spans of code, links; and the parsers of the commands it names."""

import argparse
import ast
import importlib
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

from twotower.cli import COMMANDS, PACKAGES

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
FOLDERS = (*PACKAGES, "benchmarks", "loadtests", "deploy", "clients")
CODE = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
DEPLOYED = sorted(path for path in (ROOT / "deploy").rglob("*") if path.is_file())


class Said(NamedTuple):
    """A text, and where it stands."""

    place: str
    text: str


class Block(NamedTuple):
    """A fenced block."""

    kind: str
    text: str


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    return [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def shell_lines(text: str) -> list[str]:
    """Lines of the fenced blocks, continued ones joined."""
    joined = "\n".join(block.text for block in blocks(text)).replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines()]


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def tables(text: str) -> list[list[list[str]]]:
    """Every table of a text as rows of cells, the rule below the head left out."""
    found = re.findall(r"(?:^\|.*\|$\n?)+", without_blocks(text), re.MULTILINE)
    rows = [[[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()] for table in found]
    return [[head, *body] for head, _, *body in rows]


def sections(text: str) -> list[str]:
    """A page cut at its headings of level 2."""
    return re.split(r"^(?=## )", text, flags=re.MULTILINE)


def slug(heading: str) -> str:
    """The anchor that a heading gets."""
    words = re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower())
    return words.replace(" ", "-")


def anchors(path: Path) -> set[str]:
    return {slug(found) for found in re.findall(r"^#+ (.*)$", without_blocks(path.read_text()), re.MULTILINE)}


def links(path: Path) -> list[str]:
    """Where a page leads to, other sites left out."""
    return re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)", without_blocks(path.read_text()))


@cache
def said_by_code() -> list[Said]:
    """Every text of the code: docstrings, messages and comments, a text cut over several lines as one."""
    said: list[Said] = []
    for path in CODE:
        source = path.read_text()
        comments = [t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT]
        said.extend(Said(f"{name_of(path)}:{comment.start[0]}", comment.string) for comment in comments)
        for node in ast.walk(ast.parse(source)):
            if (text := text_of(node)) is not None:
                said.append(Said(f"{name_of(path)}:{node.lineno}", text))  # type: ignore[attr-defined]
    return said


def text_of(node: ast.AST) -> str | None:
    """The text of a constant or of an f-string, whose values are `{}`."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(str(value.value) if isinstance(value, ast.Constant) else "{}" for value in values)
        case _:
            return None


@cache
def said() -> list[Said]:
    """All that is said: by the pages, by what is deployed, by the code."""
    return [*(Said(name_of(path), path.read_text()) for path in (*PAGES, *DEPLOYED)), *said_by_code()]


class Parsed(Exception):
    """A command handed its arguments to its parser, which is all we want of it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def stop(parser: argparse.ArgumentParser, *_: object) -> NoReturn:
    raise Parsed(parser)


@cache
def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of a `twotower` command. Nothing is run: the command ends where it would read its arguments."""
    module, function = COMMANDS[command].target.split(":")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        try:
            getattr(importlib.import_module(module), function)([])
        except Parsed as parsed:
            return parsed.parser
    raise AssertionError(f"`twotower {command}` reads no arguments")


def branches(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Parsers of the commands below a command."""
    below = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(below[0]) if below else {}


def options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The options of a parser, those of the commands below it left out."""
    return {option: action for action in parser._actions for option in action.option_strings}


def complaints(line: str) -> Iterator[str]:
    """What a command's own parser does not know of a line that may be cut short, such as `twotower embed --keep 7`."""
    command, *words = line.split()[1:] or [""]
    if not re.fullmatch(r"[a-z]+", command):
        return  # --help, or a placeholder
    if command not in COMMANDS:
        yield f"there is no `twotower {command}`"
        return
    parser = parser_of(command)
    if (below := branches(parser)) and words and re.fullmatch(r"[a-z-]+", words[0]) and not words[0].startswith("-"):
        if words[0] not in below:
            yield f"there is no `twotower {command} {words[0]}`"
            return
        parser = below[words[0]]
    known = options(parser)
    for option, value in pairwise([*words, ""]):
        if not option.startswith("--"):
            continue
        if option not in known:
            yield f"`twotower {command}` has no {option}"
        elif (choices := known[option].choices) and re.fullmatch(r"[a-z0-9]+", value) and value not in choices:
            yield f"`twotower {command} {option}` takes no {value}"


@cache
def defined_flags() -> set[str]:
    """Every option that a parser of the commands, the benchmarks or the load test defines."""
    flags = {"--help", "--version"}
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
                named = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                flags.update(name for name in named if name.startswith("--"))
                if "BooleanOptionalAction" in ast.unparse(node):
                    flags.update("--no-" + name.removeprefix("--") for name in named)
    return flags
