"""Virtual environments for the peers, because rectools needs numpy < 2 and this project does not depend on LitServe."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from twotower.artefacts.manifest import sha256
from twotower.progress import step

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
VENV = Path("build/peers/venv")
INSTALLED = ".installed"  # a file with the hash of the installed requirements


def peer_python(
    venv: Path = VENV, run: Callable[[Sequence[str | Path]], None] | None = None, requirements: Path | None = None
) -> Path:
    """The interpreter of an environment, which is made on first use (about 1.5 GB) and when its requirements change.

    The default is the environment of the quality benchmark.
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
    """Environment variables without this project's pip constraints, because the peers need other versions."""
    return {name: value for name, value in environment.items() if name not in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT")}
