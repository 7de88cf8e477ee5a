"""The documentation names everything a user can call, set or watch, and nothing that is not there."""

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from service.settings import Settings
from service.telemetry.metrics import Metrics
from twotower.cli import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCS = "\n".join([README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))])


def shell_lines(text: str) -> list[str]:
    """Lines of the fenced code blocks, continued ones joined, the prompt removed."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ").removeprefix(".venv/bin/") for line in lines]


COMMAND_LINES = [line for line in shell_lines(README) if line.startswith("twotower ")]
LINKS = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", README)


def metric_names() -> list[str]:
    """Names as a scrape shows them."""
    return sorted(family.name for family in Metrics(CollectorRegistry()).registry.collect())


def make_targets() -> list[str]:
    makefile = (ROOT / "Makefile").read_text()
    return re.findall(r"^([a-z]+):", makefile, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    assert f"twotower {command}" in DOCS


@pytest.mark.parametrize("metric", metric_names())
def test_every_metric_is_documented(metric: str) -> None:
    assert re.search(rf"\b{metric}(_total)?\b", DOCS)


@pytest.mark.parametrize("setting", Settings.model_fields)
def test_every_setting_is_documented(setting: str) -> None:
    assert f"{Settings.model_config['env_prefix']}{setting}".upper() in DOCS


@pytest.mark.parametrize("target", make_targets())
def test_every_make_target_is_documented(target: str) -> None:
    assert f"make {target}" in DOCS


def test_the_readme_shows_commands() -> None:
    assert COMMAND_LINES


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_every_command_line_of_the_readme_is_accepted(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command's own parser reads the line; nothing is run, for the parser hands back nothing."""
    name, *arguments = shlex.split(line, comments=True)[1:]
    if name.startswith("-"):
        assert name in ("--help", "--version")
        return
    module, function = COMMANDS[name].target.split(":")
    command = getattr(importlib.import_module(module), function)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)

    with pytest.raises(Parsed):
        command(arguments)


class Parsed(Exception):
    """The arguments were accepted."""


def parse_and_stop(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    """As ArgumentParser.parse_args, up to the point where the command would start to work."""
    _, unknown = parser.parse_known_args(arguments)
    assert not unknown, f"{parser.prog} does not know {unknown}"
    raise Parsed


@pytest.mark.parametrize("link", LINKS)
def test_every_link_of_the_readme_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
