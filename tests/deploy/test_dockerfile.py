"""deploy/Dockerfile, read without Docker: stages, users, instructions, and what each image takes along."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from twotower.cli import COMMANDS, PACKAGES

ROOT = Path(__file__).parents[2]
INSTRUCTIONS = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "USER", "WORKDIR"}
TARGETS = {"train": "training", "embed": "embedder_cache", "serve": "service"}

Stages = dict[str, list[tuple[str, str]]]


def logical_lines() -> list[str]:
    """Lines of the Dockerfile, continued ones joined, comments and blank ones left out."""
    text = (ROOT / "deploy" / "Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def own_stages() -> tuple[Stages, dict[str, str]]:
    """Per stage its own instructions, and the image or stage it begins from."""
    stages: Stages = {}
    parents: dict[str, str] = {}
    name = ""
    for line in logical_lines():
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            image, _, name = rest.partition(" AS ")
            parents[name], stages[name] = image, []
        else:
            stages[name].append((instruction, rest.strip()))
    return stages, parents


def instructions(target: str) -> list[tuple[str, str]]:
    """Everything that happens in a target, what it inherits first."""
    stages, parents = own_stages()
    inherited = instructions(parents[target]) if parents[target] in stages else []
    return inherited + stages[target]


def last(target: str, instruction: str) -> str:
    return [rest for name, rest in instructions(target) if name == instruction][-1]


def test_every_logical_line_is_an_instruction() -> None:
    assert {line.split(" ")[0] for line in logical_lines()} <= INSTRUCTIONS


@pytest.mark.parametrize("target", TARGETS)
def test_no_image_runs_as_root(target: str) -> None:
    assert int(last(target, "USER")) > 0


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_holds_its_own_package_and_the_shared_one(target: str) -> None:
    (environment,) = re.findall(r"^--from=(\S+) /venv /venv$", last(target, "COPY"))

    copied = [rest.split()[0] for name, rest in instructions(environment) if name == "COPY" and rest.split()[0] in PACKAGES]

    assert copied == ["twotower", TARGETS[target]]


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_holds_the_libraries_of_its_own_stage_alone(target: str) -> None:
    (environment,) = re.findall(r"^--from=(\S+) /venv /venv$", last(target, "COPY"))
    lines = [rest for name, rest in instructions(environment) if name == "RUN"]
    extras = {extra for line in lines for named in re.findall(r"'\.\[([\w,]+)\]'", line) for extra in named.split(",")}
    assert extras & set(TARGETS) == {target}
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras <= declared.keys()
    installed = {re.match(r"[\w.-]+", line)[0] for extra in extras for line in declared[extra]}  # type: ignore[index]
    assert ("uvicorn" in installed, "matplotlib" in installed) == (target == "serve", target == "train")


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    stages, _ = own_stages()
    copies = [rest.split()[:-1] for steps in stages.values() for name, rest in steps if name == "COPY" and "--from" not in rest]
    for source in {path for paths in copies for path in paths}:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_starts_twotower(target: str) -> None:
    assert json.loads(last(target, "ENTRYPOINT")) == ["twotower"]


def test_the_serve_image_serves_and_says_whether_it_is_alive() -> None:
    assert json.loads(last("serve", "CMD"))[0] in COMMANDS
    assert "/livez" in last("serve", "HEALTHCHECK")


def test_versions_come_from_the_constraints_file() -> None:
    stages, _ = own_stages()
    environment = [rest for name, rest in stages["dependencies"] if name == "ENV"]
    assert any("PIP_CONSTRAINT=constraints.txt" in line for line in environment)
