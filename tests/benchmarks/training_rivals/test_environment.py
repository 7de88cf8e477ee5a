from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.serving import LITSERVE
from benchmarks.training_rivals import environment
from benchmarks.training_rivals.environment import peer_python, without_constraints


class Calls:
    """Commands that would have been run; making the environment makes its directory."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    def __call__(self, command: Sequence[str | Path]) -> None:
        self.commands.append([str(part) for part in command])
        if "venv" in self.commands[-1]:
            Path(command[-1]).mkdir(parents=True, exist_ok=True)


def test_the_environment_is_made_once(tmp_path: Path) -> None:
    calls = Calls()

    first = peer_python(tmp_path / "venv", calls)
    again = peer_python(tmp_path / "venv", calls)

    assert first == again == tmp_path / "venv" / "bin" / "python"
    made, installed = calls.commands
    assert made[1:] == ["-m", "venv", "--clear", str(tmp_path / "venv")]
    assert installed[0] == str(first)
    assert installed[-1] == str(environment.REQUIREMENTS)


def test_other_requirements_make_it_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    peer_python(tmp_path / "venv", calls)
    changed = tmp_path / "requirements.txt"
    changed.write_text("rectools[torch]==0.19.1\n")
    monkeypatch.setattr(environment, "REQUIREMENTS", changed)

    peer_python(tmp_path / "venv", calls)

    assert len(calls.commands) == 4


def test_an_environment_can_have_other_requirements(tmp_path: Path) -> None:
    calls = Calls()
    peer_python(tmp_path / "venv", calls, LITSERVE)
    assert calls.commands[-1][-1] == str(LITSERVE)


@pytest.mark.parametrize(
    ("requirements", "peer"), [(environment.REQUIREMENTS, "rectools[torch]==0.19."), (LITSERVE, "litserve==0.2.")]
)
def test_every_requirement_is_pinned(requirements: Path, peer: str) -> None:
    lines = requirements.read_text().splitlines()
    assert all("==" in line for line in lines if not line.startswith("#"))
    assert any(line.startswith(peer) for line in lines)


def test_the_peers_do_not_see_this_projects_versions() -> None:
    kept = without_constraints({"PIP_CONSTRAINT": "constraints.txt", "PIP_BUILD_CONSTRAINT": "constraints.txt", "PATH": "/bin"})
    assert kept == {"PATH": "/bin"}
