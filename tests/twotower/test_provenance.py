"""A figure can be traced to what made it."""

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from twotower import provenance


def git(directory: Path, *arguments: str) -> str:
    who = ["-c", "user.name=someone", "-c", "user.email=someone@example.org", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *who, *arguments], cwd=directory, check=True, capture_output=True, text=True).stdout.strip()


def test_the_versions_are_those_of_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not installed is left out."""

    def version(name: str) -> str:
        if name not in ("torch", "numpy"):
            raise PackageNotFoundError(name)
        return {"torch": "2.9.1+cpu", "numpy": "2.4.0"}[name]

    monkeypatch.setattr(provenance, "version", version)
    monkeypatch.setattr(platform, "python_version", lambda: "3.11.9")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    expected = {"versions": {"python": "3.11.9", "torch": "2.9.1+cpu", "numpy": "2.4.0"}, "cores": 3}
    assert provenance.environment() == expected


def test_the_commit_is_the_one_checked_out_and_says_when_files_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = tmp_path / "twotower" / "provenance.py"
    code.parent.mkdir()
    code.write_text("first\n")
    monkeypatch.setattr(provenance, "__file__", str(code))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit() is None, "it is no checkout"
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--message", "one")
    git(tmp_path, "tag", "--annotate", "v1", "--message", "a release")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert re.fullmatch("[0-9a-f]{40}", head)
    assert provenance.commit() == head[:12], "a tag would say less"
    code.write_text("second\n")
    assert provenance.commit() == f"{head[:12]}-dirty"


def test_without_git_the_commit_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() is None
