"""The provenance of a result: commit, versions and cores."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("twotower", "torch", "numpy", "pyarrow", "faiss-cpu", "fastapi")


def commit() -> str | None:
    """The checked-out commit of this code, with `-dirty` when files differ from it; None outside a git checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        described = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return described.stdout.strip() or None


def environment() -> dict[str, object]:
    """Versions of Python and of the packages that affect figures, and the number of cores."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"versions": versions, "cores": os.cpu_count()}
