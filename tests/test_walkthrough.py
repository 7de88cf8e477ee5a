"""The pages that a newcomer types from do what they say: their commands are run, and what they print is compared with the page.

`make demo` of the quickstart is left out, because it takes five minutes on two cores: tests/twotower/test_demo.py has its parts,
and `make bench NAME=demo` its figures. The rest of the quickstart is run, its requests against the ten rows of the other page.
"""

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.documents import ROOT, Block, blocks, sections

pytestmark = pytest.mark.timeout(400)  # some ten commands, each of which loads torch: 45 s on a quiet core

STOP_S = 30
PORT = "localhost:8000"  # as the pages say
LEFT_OUT = "make demo"
FOUR_COMMANDS = "## Four commands"  # the section that tests/test_four_commands.py types


class Terminal:
    """Types blocks of a page into a shell, in one directory; a server is left running, and asked at the port it took."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.server: subprocess.Popen[str] | None = None
        self.address = ""
        commands = directory / "bin"
        commands.mkdir()
        self._write(commands / "twotower", f'#!/bin/sh\nexec "{sys.executable}" -m twotower.cli "$@"\n')
        self._write(commands / "python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        path = f"{commands}{os.pathsep}{os.environ['PATH']}"
        libraries = f"{ROOT}{os.pathsep}{ROOT / 'clients' / 'python'}"
        self._environment = os.environ | {"PATH": path, "PYTHONPATH": libraries, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def type(self, commands: str) -> str:
        """What the commands print, errors and progress among it."""
        if commands.startswith("twotower serve"):
            return self._serve(commands)
        commands = commands.replace(PORT, self.address)
        line = ["bash", "-e", "-c", f"exec 2>&1\n{commands}"]
        done = subprocess.run(line, cwd=self.directory, env=self._environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{commands}\n{done.stdout}"
        return done.stdout

    def _serve(self, command: str) -> str:
        line = ["bash", "-c", "exec " + command.replace("--port 8000", "--port 0").strip()]
        with (self.directory / "serve.log").open("w") as log:
            self.server = subprocess.Popen(
                line, cwd=self.directory, env=self._environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.server.stdout is not None
        said = self.server.stdout.readline()
        self.address = re.findall(r"http://(\S+?:\d+)", said)[0]
        return said

    def close(self) -> None:
        """End the server as a user does."""
        if self.server is not None:
            self.server.terminate()
            assert self.server.wait(timeout=STOP_S) == 0
            assert self.server.stdout is not None
            self.server.stdout.close()


def pairs(page: str) -> list[tuple[Block, Block | None]]:
    """The shell blocks of a page, each with the output that is shown below it, if any."""
    parts = sections((ROOT / "docs" / page).read_text())
    shown = blocks("".join(part for part in parts if not part.startswith(FOUR_COMMANDS)))
    following = [*shown[1:], None]
    return [
        (block, after if after and after.kind in ("text", "json") else None)
        for block, after in zip(shown, following, strict=True)
        if block.kind == "sh"
    ]


def masked(line: str) -> str:
    """A line without what depends on the machine: numbers, ids made of hashes, the frames of tables, the width of columns."""
    line = re.sub(r"\b(release|bundle|space)[- ][0-9a-f]{12,}", r"\1 #", line)
    line = re.sub(r"[+-]?\d[\d,.]*|[-+]?\bnan\b", "#", line)
    return " ".join(re.sub(r"[│┃┏┳┓┡╇┩━└┴┘─]", " ", line).split())


def assert_shown(expected: str, actual: str) -> None:
    """Every line of the page is printed, in that order; where the page says `...` there may be others between."""
    printed = iter([line for line in map(masked, actual.splitlines()) if line])
    gap = False
    for line in expected.splitlines():
        if line.strip() == "...":
            gap = True
        elif wanted := masked(line):
            found = next((one for one in printed if one == wanted), None) if gap else next(printed, None)
            assert found == wanted, f"the page says\n{line}\nbut the command says\n{actual}"
            gap = False


def shape(value: Any) -> Any:
    """What a JSON value is made of: the names of its fields and the kinds of their values."""
    match value:
        case dict():
            return {name: shape(inner) for name, inner in value.items()}
        case list():
            return [shape(inner) for inner in value]
        case int() | float() if not isinstance(value, bool):
            return "number"
        case _:
            return type(value).__name__


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A terminal in an empty directory."""
    opened = Terminal(tmp_path_factory.mktemp("your-data"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def printed(terminal: Terminal) -> list[tuple[Block, str]]:
    """What each block of the page about your own data printed, beside the block that shows it; its server is left running."""
    return [(shown, output) for typed, shown in pairs("your-data.md") for output in [terminal.type(typed.text)] if shown]


def test_the_page_about_your_own_data_does_what_it_says(printed: list[tuple[Block, str]]) -> None:
    assert len(printed) >= 8
    for shown, output in printed:
        if shown.kind == "text":
            assert_shown(shown.text, output)
        else:
            assert shape(json.loads(output)) == shape(json.loads(shown.text))


@pytest.mark.usefixtures("printed")
def test_the_commands_of_the_quickstart_work_and_its_requests_are_answered(terminal: Terminal) -> None:
    """By the server of ten rows, whose columns are the demo's: only the demo's items are not there."""
    typed = [line for block, _ in pairs("quickstart.md") for line in block.text.replace("\\\n", " ").splitlines()]
    typed.remove(LEFT_OUT)
    requests = [line for line in typed if line.startswith("curl")]
    assert len(requests) >= 6
    for line in typed:
        output = terminal.type(line)
        assert output
        if line in requests:
            error = json.loads(output).get("error", {"code": "not_found"})
            assert error["code"] == "not_found", output


@pytest.mark.usefixtures("printed")
@pytest.mark.parametrize("page", ["faq.md", "serving.md"])
def test_the_requests_of_other_pages_are_answered_too(page: str, terminal: Terminal) -> None:
    """What they name may be missing among ten rows; what they ask for must exist."""
    typed = [line for block, _ in pairs(page) for line in block.text.replace("\\\n", " ").splitlines()]
    requests = [line for line in typed if line.startswith("curl")]
    assert len(requests) >= 4
    for line in requests:
        error = json.loads(terminal.type(line)).get("error", {"code": "not_found"})
        assert error["code"] in ("not_found", "conflict"), error


@pytest.mark.usefixtures("printed")
def test_the_examples_of_the_page_about_clients_work(terminal: Terminal) -> None:
    """In the order of the page, against the server of ten rows, which has no map: what is asked is answered or printed."""
    shown = blocks((ROOT / "docs" / "clients.md").read_text())
    for block in shown:
        if block.kind == "python":
            assert terminal.type(f"python - <<'END'\n{block.text}END")
    for line in curl_lines(shown):
        output = terminal.type(line)
        assert output
        if output.startswith("{"):
            error = json.loads(output).get("error")
            assert error is None or "/v1/admin/" in line or "/v1/map/" in line, f"{line}\n{output}"


def test_the_page_about_clients_asks_every_route() -> None:
    asked = set()
    for line in curl_lines(blocks((ROOT / "docs" / "clients.md").read_text())):
        method = re.search(r"-X (\w+)", line)
        (path,) = re.findall(r"localhost:8000(/[^\s?']*)", line)
        asked.add((method[1] if method else "POST" if " -d " in line else "GET", re.sub(r"(/users|/items)/.+", r"\1/{id}", path)))
    table = runpy.run_path(str(ROOT / "docs" / "generate_api.py"))["routes"]()
    routes = {(route.method, re.sub(r"{.*}", "{id}", route.paths[0])) for route in table if "{file" not in route.paths[0]}
    assert asked >= routes


def curl_lines(shown: list[Block]) -> list[str]:
    """The requests of the blocks, continued lines joined."""
    typed = "".join(block.text.replace("\\\n", " ") for block in shown if block.kind == "sh")
    return [line for line in typed.splitlines() if line.startswith("curl")]


def test_a_page_that_says_something_else_is_found() -> None:
    with pytest.raises(AssertionError, match="10 events of 3 users"):
        assert_shown("read events  0.0 s\n10 events of 3 users", "read events  1.2 s\n  12 events of 3 people")
    with pytest.raises(AssertionError, match="bundle written"):
        assert_shown("...\nbundle written to bundle", "read events  1.2 s\nnext: embed")
