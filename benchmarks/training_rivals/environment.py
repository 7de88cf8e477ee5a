"""Virtual environments of the peers: rectools needs numpy < 2, and LitServe is no part of this project either."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from twotower.artefacts.manifest import sha256
from twotower.progress import step

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
VENV = Path("build/peers/venv")
INSTALLED = ".installed"  # holds the hash of the requirements that are in the environment


def peer_python(
    venv: Path = VENV, run: Callable[[Sequence[str | Path]], None] | None = None, requirements: Path | None = None
) -> Path:
    """The interpreter of an environment, made on first use (about 1.5 GB) and again when it needs something else.

    By default it has what the peers in quality need.
    """
    requirements = requirements or REQUIREMENTS
    python, installed, wanted = venv / "bin" / "python", venv / INSTALLED, sha256(requirements)
    if installed.exists() and installed.read_text() == wanted:
        return python
    call = run or _run
    with step(f"install the peers into {venv}"):
        call([sys.executable, "-m", "venv", "--clear", venv])
        call([python, "-m", "pip", "install", "--quiet", "--requirement", requirements])
    installed.write_text(wanted)
    return python


def _run(command: Sequence[str | Path]) -> None:
    subprocess.run(command, check=True, env=without_constraints(os.environ))


def without_constraints(environment: "os._Environ[str] | dict[str, str]") -> dict[str, str]:
    """An environment in which pip does not see this project's own versions: the peers need others."""
    return {name: value for name, value in environment.items() if name not in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT")}
