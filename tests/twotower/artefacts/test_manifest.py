"""A directory is whole and true, or it is refused."""

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.artefacts.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    content_id,
    move_into_place,
    parse_manifest,
    seal,
    staging,
    verify_directory,
)
from twotower.errors import ArtefactError, EnvironmentProblem, FormatError, IntegrityError


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


@pytest.mark.parametrize(
    "raw",
    [b'{"kind": "\xff"}', b'{"format_version": 1, "id": "\xff"}', b'{"a":' * 100_000, b'{"a": 1e999}', b"\xef\xbb\xbf{}", b"\0"],
    ids=["text that is no text", "an id that is no text", "too deep", "too large", "byte order mark", "nothing"],
)
def test_bytes_that_no_program_of_ours_wrote_are_refused(raw: bytes) -> None:
    with pytest.raises((IntegrityError, FormatError)):
        parse_manifest("release-0", "release", raw, None, None)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(ArtefactError):
        parse_manifest("release-0", "release", raw, None, None)


FILES = {"a.bin": FileEntry(200, "0" * 64), "b.txt": FileEntry(5, "1" * 64)}
TRUE = Manifest(kind="release", format_version=1, id=content_id("release", FILES), parent="bundle-0123456789ab", files=FILES)
RAW = msgspec.json.format(msgspec.json.encode(TRUE))
EDITS = st.lists(st.tuples(st.integers(0, len(RAW)), st.integers(0, 40), st.binary(max_size=40)), min_size=1, max_size=3)


@given(EDITS)
@settings(max_examples=500)
def test_an_edited_manifest_is_refused_or_names_plain_files_only(edits: list[tuple[int, int, bytes]]) -> None:
    raw = RAW
    for start, length, new in edits:
        raw = raw[:start] + new + raw[start + length :]
    try:
        manifest = parse_manifest("release-0", "release", raw, None, None)
    except ArtefactError:
        return
    assert manifest.files.keys() == FILES.keys(), "the id follows from them"


def test_a_true_manifest_is_read() -> None:
    assert parse_manifest("release-0", "release", RAW, None, None) == TRUE


def test_a_manifest_that_is_a_link_is_none(artefact: Path) -> None:
    (artefact / MANIFEST).rename(artefact.parent / "elsewhere")
    (artefact / MANIFEST).symlink_to(artefact.parent / "elsewhere")
    with pytest.raises(IntegrityError, match="has no manifest"):
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
