"""A directory is whole and true, or it is refused."""

import json
from pathlib import Path

import pytest

from twotower.errors import EnvironmentProblem, FormatError, IntegrityError
from twotower.manifest import MANIFEST, move_into_place, seal, staging, verify_directory


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    path = tmp_path / "artefact"
    with staging(tmp_path) as directory:
        (directory / "a.bin").write_bytes(bytes(range(200)))
        (directory / "b.txt").write_text("hello")
        seal(directory, "bundle", parent=None)
        move_into_place(directory, path)
    return path


def test_what_was_sealed_is_verified(artefact: Path) -> None:
    manifest = verify_directory(artefact, "bundle")
    assert set(manifest.files) == {"a.bin", "b.txt"}
    assert not list(artefact.parent.glob(".staging-*")), "nothing is left beside it"


def test_equal_content_has_an_equal_id(tmp_path: Path) -> None:
    ids = []
    for text in ("one", "one", "two"):
        with staging(tmp_path) as directory:
            (directory / "x").write_text(text)
            ids.append(seal(directory, "release", parent=None).id)
    assert ids[0] == ids[1] != ids[2]


def test_any_flipped_bit_is_found(artefact: Path) -> None:
    content = (artefact / "a.bin").read_bytes()
    for position in range(0, len(content) * 8, 37):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        (artefact / "a.bin").write_bytes(flipped)
        with pytest.raises(IntegrityError, match=r"a\.bin"):
            verify_directory(artefact, "bundle")


def test_any_truncation_is_found(artefact: Path) -> None:
    content = (artefact / "a.bin").read_bytes()
    for length in range(0, len(content), 40):
        (artefact / "a.bin").write_bytes(content[:length])
        with pytest.raises(IntegrityError):
            verify_directory(artefact, "bundle")


def edit(artefact: Path, **changes: object) -> None:
    manifest = json.loads((artefact / MANIFEST).read_text())
    (artefact / MANIFEST).write_text(json.dumps(manifest | changes))


def test_another_format_version_is_refused(artefact: Path) -> None:
    edit(artefact, format_version=99)
    with pytest.raises(FormatError, match="99"):
        verify_directory(artefact, "bundle")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/b", ".hidden", ""])
def test_a_file_outside_the_directory_is_refused(artefact: Path, name: str) -> None:
    edit(artefact, files={name: {"size": 1, "sha256": "0"}})
    with pytest.raises(IntegrityError, match="outside"):
        verify_directory(artefact, "bundle")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format_version": 1}'])
def test_half_a_manifest_is_refused(artefact: Path, text: str) -> None:
    (artefact / MANIFEST).write_text(text)
    with pytest.raises((IntegrityError, FormatError)):
        verify_directory(artefact, "bundle")


def test_a_link_is_no_file(artefact: Path) -> None:
    (artefact / "b.txt").rename(artefact.parent / "elsewhere")
    (artefact / "b.txt").symlink_to(artefact.parent / "elsewhere")
    with pytest.raises(IntegrityError, match="plain file"):
        verify_directory(artefact, "bundle")


def test_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), staging(tmp_path) as directory:
        (directory / "half").write_text(str(1 / len(list(directory.iterdir()))))
    assert not list(tmp_path.iterdir())


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentProblem, match="file"), staging(tmp_path / "file" / "store"):
        pass
