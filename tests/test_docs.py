"""The documentation names everything a user can call, set or watch, and nothing that is not there."""

import ast
import json
import re
import runpy
import shlex
import tomllib
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from pydantic_core import PydanticUndefined

import clients.generate
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.documents import (
    CODE,
    DEPLOYED,
    PAGES,
    ROOT,
    Said,
    anchors,
    blocks,
    complaints,
    defined_flags,
    links,
    name_of,
    parser_of,
    said,
    said_by_code,
    sections,
    shell_lines,
    tables,
    text_of,
    without_blocks,
)
from training.recipes.recipes import RECIPES
from twotower.cli import COMMANDS, PACKAGES
from twotower.index.kinds import KINDS

README, DOCS = ROOT / "README.md", ROOT / "docs"
EVERYTHING = "\n".join(path.read_text() for path in PAGES)
MAX_LINE, MAX_README_LINES, MAX_README_CHARACTERS = 160, 120, 9_000
PREFIX = Settings.model_config["env_prefix"]
FLAG = re.compile(r"(?<![\w-])(?<!var\()--[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
SPAN = re.compile(r"`(twotower [^`\n]+)`")

# Options of other programs that the texts name.
FOREIGN = {
    "--standalone": "torchrun",
    "--nproc-per-node": "torchrun",
    "--fix": "ruff",
    "--strict": "mypy",
    "--import-mode": "pytest",
    "--build-arg": "docker",
    "--rm": "docker",
    "--sbom": "docker",
    "--target": "docker",
    "--from-file": "kubectl",
    "--from-literal": "kubectl",
}


def page(name: str) -> str:
    return (DOCS / name).read_text()


def command_lines() -> list[tuple[str, str]]:
    """Every `twotower` line of the fenced blocks, and its page; what a shell does around it is taken off."""
    found = []
    for path in PAGES:
        for line in shell_lines(path.read_text()):
            if command := re.search(r"(?:^|&& |^PYTHONPATH=.* |^torchrun .* -m )twotower(?:\.cli)? (.*)", line):
                found.append((path.name, command[1].partition(" >>")[0]))
    return found


def make_targets() -> list[str]:
    return re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


# What is there is named.


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    assert f"twotower {command}" in EVERYTHING


@pytest.mark.parametrize("target", make_targets())
def test_every_make_target_is_documented(target: str) -> None:
    assert f"make {target}" in EVERYTHING


def test_the_reference_of_the_interface_is_what_the_types_say() -> None:
    made = runpy.run_path(str(DOCS / "generate_api.py"))["page"]()
    assert page("api.md") == made, "run `.venv/bin/python docs/generate_api.py`"


def test_the_python_client_is_what_the_types_of_the_server_say() -> None:
    for path, made in clients.generate.files().items():
        assert path.read_text() == made, f"{name_of(path)}: run `.venv/bin/python -m clients.generate`"


def test_every_setting_has_one_row_with_its_default() -> None:
    table = tables(page("settings.md"))[0]
    rows = {cells[0].strip("`"): cells[1].strip("`") for cells in table[1:]}
    elsewhere = {"TWOTOWER_CACHE", "TWOTOWER_EMBEDDER"}  # read where they are used, by several commands
    assert set(rows) - elsewhere == {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    assert len(rows) == len(table) - 1
    for name, field in Settings.model_fields.items():
        told, default = rows[f"{PREFIX}{name}".upper()], field.default
        if default is PydanticUndefined or default is None:  # required, computed, or none: the row says it in words
            assert told.startswith("(") or " " in told, name
        elif isinstance(default, bool):
            assert told == str(default).lower()
        elif isinstance(default, int | float):
            assert float(told) == default, name
        else:
            assert told == default, name


def test_every_metric_has_one_row_with_its_labels() -> None:
    registry = CollectorRegistry()
    defined = [m for m in vars(Metrics(registry)).values() if hasattr(m, "_labelnames")]
    expected = {metric._name: set(metric._labelnames) for metric in defined}
    told = {}
    for names, labels, _ in tables(page("metrics.md"))[0][1:]:
        for name in re.findall(r"`([^`]+)`", names):
            told[name.removesuffix("_total")] = set(filter(None, labels.split(", ")))
    assert told == expected


def fault_rows() -> list[list[str]]:
    (table,) = tables(page("faults.md"))
    return table[1:]


def fault_tests() -> set[str]:
    return {name_of(path) for path in (ROOT / "tests/service/faults").glob("test_*.py")}


def files_of(row: list[str]) -> list[str]:
    return re.findall(r"\]\(\.\./([^)]+)\)", row[-1])


def test_every_fault_has_a_row_and_every_fault_test_stands_in_the_row_of_its_number() -> None:
    numbers = [row[0] for row in fault_rows()]
    assert [n for n in numbers if n.isdecimal()] == [str(n) for n in range(1, 39)]
    assert {file for row in fault_rows() for file in files_of(row)} >= fault_tests()
    for row in fault_rows():
        for file in files_of(row):
            if number := re.match(r"tests/service/faults/test_(\d+)_(?!\d)", file):
                assert int(number[1]) == int(row[0])


@pytest.mark.parametrize("row", fault_rows(), ids=lambda row: row[0])
def test_the_row_of_a_fault_names_tests_that_are_there_and_says_whether_they_are_long(row: list[str]) -> None:
    texts = [(ROOT / file).read_text() for file in files_of(row)]
    assert texts
    assert any("mark.faults" in text for text in texts) == ("*long*" in row[1])


def test_the_map_names_every_room_and_says_what_its_docstring_says() -> None:
    rooms = [path for package in PACKAGES for path in (ROOT / package).glob("*/__init__.py")]
    said_of = {f"`{name_of(path.parent)}/`": ast.get_docstring(ast.parse(path.read_text())) for path in rooms}
    (table,) = [t for t in tables((ROOT / "CONTRIBUTING.md").read_text()) if t[0][0] == "room"]
    assert dict(table[1:]) == said_of


def test_the_picture_of_the_rooms_is_that_of_the_map() -> None:
    made = runpy.run_path(str(DOCS / "draw_rooms.py"))["picture"]()
    assert (DOCS / "images/rooms.svg").read_text() == made, "run `.venv/bin/python docs/draw_rooms.py`"


def test_the_map_goes_from_the_top_down() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (table,) = [t for t in tables((ROOT / "CONTRIBUTING.md").read_text()) if t[0][0] == "room"]
    for package in PACKAGES:
        (layers,) = [c["layers"] for c in contracts if c["name"] == f"The rooms of {package}"]
        floor = {room: height for height, layer in enumerate(layers) for room in re.findall(r"\w+", layer)}
        rooms = [name.strip("`/").split("/") for name, _ in table[1:]]
        heights = [floor[room] for owner, room in rooms if owner == package]
        assert heights == sorted(heights)


def first_column(name: str) -> set[str]:
    """The names in the first cells of all tables of a page."""
    return {found for table in tables(page(name)) for row in table for found in re.findall(r"`([^`]+)`", row[0])}


def test_every_recipe_every_benchmark_and_every_kind_of_index_has_a_row() -> None:
    assert RECIPES.keys() <= first_column("training.md")
    assert {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"report"} <= first_column("benchmarks.md")
    assert set(KINDS) <= first_column("nightly.md")


def test_every_extra_has_a_row_and_every_extra_named_anywhere_is_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys()
    assert extras <= first_column("quickstart.md")
    named = {
        (one.place, extra)
        for one in said()
        for found in re.findall(r"twotower\[([a-z0-9,]+)\]", one.text)
        for extra in found.split(",")
    }
    assert sorted(pair for pair in named if pair[1] not in extras) == []


# What is named is there.


def test_the_pages_show_commands() -> None:
    assert len(command_lines()) > 30


@pytest.mark.parametrize(("where", "line"), command_lines())
def test_every_command_line_of_a_page_is_accepted(where: str, line: str) -> None:
    """Each command's own parser reads the line; nothing is run."""
    name, *arguments = shlex.split(line, comments=True)
    if not name.startswith("-"):
        _, unknown = parser_of(name).parse_known_args(arguments)
        assert not unknown, f"{where}: `twotower {name}` does not know {unknown}"


def test_every_command_named_within_a_sentence_is_there_with_its_options() -> None:
    wrong = [f"{one.place}: {why}" for one in said() for span in SPAN.findall(one.text) for why in complaints(span)]
    assert not wrong


def test_a_sentence_that_names_an_option_that_is_not_there_is_found() -> None:
    assert list(complaints("twotower serve --speed high")) == ["`twotower serve` has no --speed"]
    assert list(complaints("twotower serve --engine gpu")) == ["`twotower serve --engine` takes no gpu"]
    assert list(complaints("twotower releases forget --store STORE")) == ["there is no `twotower releases forget`"]
    assert list(complaints("twotower releases gc --keep 7")) == []


def test_every_option_named_anywhere_belongs_to_a_parser() -> None:
    known = defined_flags() | FOREIGN.keys()
    texts = [*(Said(name_of(path), path.read_text()) for path in PAGES), *said_by_code()]
    named = {(one.place, flag) for one in texts if not spoken_to_others(one) for flag in FLAG.findall(one.text)}
    assert sorted((place, flag) for place, flag in named if flag not in known) == []
    assert FOREIGN.keys() <= {flag for _, flag in named}


def spoken_to_others(one: Said) -> bool:
    """Whether a constant of the code is an argument of another program, such as pip's `--quiet`, and says nothing to a reader."""
    return bool(re.fullmatch(r"--[\w=.*{}-]+", one.text)) and ".py:" in one.place


def test_every_setting_named_anywhere_is_read_somewhere() -> None:
    read = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    for path in CODE:
        constants = [text_of(node) for node in ast.walk(ast.parse(path.read_text()))]
        read.update(text for text in constants if text and re.fullmatch(r"TWOTOWER_[A-Z_]*[A-Z]", text))
    for path in DEPLOYED:
        read.update(re.findall(r"\$\{(TWOTOWER_[A-Z_]+)", path.read_text()))
    named = {(one.place, name) for one in said() for name in re.findall(r"TWOTOWER_[A-Z_]*[A-Z]\b", one.text)}
    assert sorted((place, name) for place, name in named if name not in read) == []


def test_every_make_target_and_benchmark_named_anywhere_is_there() -> None:
    named = {(one.place, target) for one in said() for target in re.findall(r"`make ([a-z-]+)", one.text)}
    assert sorted(pair for pair in named if pair[1] not in make_targets()) == []
    benchmarks = {(one.place, name) for one in said() for name in re.findall(r"NAME=([a-z_]+)", one.text)}
    assert sorted(pair for pair in benchmarks if not (ROOT / f"benchmarks/{pair[1]}.py").exists()) == []


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_link_leads_somewhere(path: Path) -> None:
    for link in links(path):
        file, _, anchor = link.partition("#")
        target = (path.parent / file) if file else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_named_in_the_code_is_there() -> None:
    named = {(one.place, name) for one in said_by_code() for name in re.findall(r"\bdocs/[\w-]+\.\w+", one.text)}
    assert sorted(pair for pair in named if not (ROOT / pair[1]).exists()) == []


def test_the_readme_leads_to_every_page() -> None:
    """By links, in as many steps as it takes: so a reader on GitHub, who has no navigation, finds them all."""
    reached, waiting = {README}, [README]
    while waiting:
        path = waiting.pop()
        pages = {(path.parent / link.partition("#")[0]).resolve() for link in links(path)} & set(PAGES)
        waiting.extend(pages - reached)
        reached |= pages
    assert set(PAGES) - reached == set()


# It can be read.


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_page_says_first_what_it_is_for(path: Path) -> None:
    title, first, *_ = [part for part in path.read_text().split("\n\n") if part.strip()]
    assert re.fullmatch(r"# .+", title)
    assert not first.startswith(("```", "|", "![", "#", "- ", "1. ")), "a sentence comes before code, tables and pictures"
    assert len(first) > 60


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_no_line_of_prose_is_too_long(path: Path) -> None:
    lines = [line for line in without_blocks(path.read_text()).splitlines() if not line.startswith("|")]
    assert [line for line in lines if len(re.sub(r"\]\([^)]*\)", "]", line)) > MAX_LINE] == []


def test_the_readme_is_short() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= MAX_README_LINES
    assert len(text) <= MAX_README_CHARACTERS


def figure_sections() -> list[Said]:
    """The sections that hold a table of figures: one that says `measured`, or whose rows mostly begin with a number."""
    found = []
    for path in PAGES:
        for section in sections(path.read_text()):
            if any(is_of_figures(table, path.name) for table in tables(section)):
                found.append(Said(f"{path.name}: {section.splitlines()[0]}", section))
    return found


def is_of_figures(table: list[list[str]], name: str) -> bool:
    head, *body = table
    with_numbers = [row for row in body if any(re.match(r"\**[.\d]", cell) for cell in row[1:])]
    return "measured" in head or (name in ("README.md", "benchmarks.md", "gpu.md") and len(with_numbers) > len(body) / 2)


@pytest.mark.parametrize("section", figure_sections(), ids=lambda one: one.place)
def test_every_table_of_figures_names_its_command_and_its_date(section: Said) -> None:
    assert re.search(r"\b20\d\d-\d\d-\d\d\b", section.text)
    assert "`make " in section.text


def test_the_tables_of_figures_are_found() -> None:
    places = [section.place for section in figure_sections()]
    assert [place for place in places if place.startswith("README")] == ["README.md: ## How good", "README.md: ## How fast"]
    assert len(places) >= 7


def test_json_that_a_page_shows_is_json() -> None:
    shown = [block.text for path in PAGES for block in blocks(path.read_text()) if block.kind == "json"]
    assert [json.loads(text) for text in shown]
