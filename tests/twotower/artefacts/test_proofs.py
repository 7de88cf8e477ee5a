"""A file that was read is known by its identity, and by nothing else."""

import os
from pathlib import Path

import pytest

from twotower.artefacts import proofs
from twotower.artefacts.manifest import sha256
from twotower.artefacts.proofs import Proofs


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a").write_text("tea")
    return tmp_path / "a"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read, as they are."""
    seen: list[str] = []

    def watched(path: Path) -> str:
        seen.append(path.name)
        return sha256(path)

    monkeypatch.setattr(proofs, "sha256", watched)
    return seen


def test_a_link_to_a_file_that_was_read_is_not_read_again(file: Path, read: list[str]) -> None:
    known = Proofs()
    found = known.read(file)
    file.with_name("b").hardlink_to(file)
    assert known.digest(file.with_name("b")) == found == sha256(file)
    assert read == ["a"]


def test_what_was_not_read_or_changed_since_is_read(file: Path, read: list[str]) -> None:
    known = Proofs()
    known.read(file)
    file.write_text("ale")  # as long as before
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    file.with_name("c").write_text("tea")
    assert [known.digest(path) for path in (file, file.with_name("c"))] == [sha256(file), sha256(file.with_name("c"))]
    assert read == ["a", "a", "c"]
    assert known.digest(file)
    assert read == ["a", "a", "c", "a"], "only `read` remembers"
