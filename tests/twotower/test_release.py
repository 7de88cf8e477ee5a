"""The store's pointer only grows, and a release whose parts disagree is refused."""

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from twotower.errors import IntegrityError, ReleaseMismatch, StoreError
from twotower.index.kinds import IndexInfo
from twotower.manifest import MANIFEST, seal
from twotower.release import (
    INFO,
    KIND,
    POINTER,
    VECTORS,
    list_releases,
    read_info,
    read_pointer,
    release_path,
    verify_release,
    write_pointer,
)


@pytest.fixture
def store(tiny_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_store, tmp_path / "store"))


def reseal(path: Path) -> None:
    """Make the manifest true again after tampering, as a careless or hostile publisher would."""
    (path / MANIFEST).unlink()
    seal(path, KIND, parent=None)


def test_the_current_release_is_whole(store: Path) -> None:
    pointer = read_pointer(store)
    assert list_releases(store) == [pointer.release]
    _, info = verify_release(release_path(store, pointer.release))
    assert info.num_items == 400


def test_every_new_pointer_has_a_higher_number(store: Path) -> None:
    first = read_pointer(store)
    second = write_pointer(store, first.release, reason="again")
    assert (second.sequence, second.previous) == (first.sequence + 1, first.release)
    assert read_pointer(store) == second


def test_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="twotower embed"):
        read_pointer(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "not json"])
def test_a_broken_pointer_is_refused(store: Path, text: str) -> None:
    (store / POINTER).write_text(text)
    with pytest.raises(StoreError):
        read_pointer(store)


@pytest.mark.parametrize("name", ["release-none", "../store", "..", ""])
def test_an_unknown_release_is_refused(store: Path, name: str) -> None:
    with pytest.raises(StoreError, match="no release"):
        release_path(store, name)


def test_a_flipped_bit_in_the_vectors_is_refused(store: Path) -> None:
    path = release_path(store, read_pointer(store).release)
    content = bytearray((path / VECTORS).read_bytes())
    content[len(content) // 2] ^= 16
    (path / VECTORS).write_bytes(content)
    with pytest.raises(IntegrityError, match=VECTORS):
        verify_release(path)


@pytest.mark.parametrize("field", ["vector_space_id", "vector_width"])
def test_parts_that_do_not_belong_together_are_refused(store: Path, field: str) -> None:
    path = release_path(store, read_pointer(store).release)
    info = json.loads((path / INFO).read_text())
    info[field] = 7 if field == "vector_width" else "another"
    (path / INFO).write_text(json.dumps(info))
    reseal(path)
    with pytest.raises(ReleaseMismatch):
        verify_release(path)


def test_a_missing_part_is_refused(store: Path) -> None:
    path = release_path(store, read_pointer(store).release)
    (path / VECTORS).unlink()
    reseal(path)
    with pytest.raises(ReleaseMismatch, match=VECTORS):
        verify_release(path)


def test_a_release_needs_the_files_of_its_index(store: Path) -> None:
    path = release_path(store, read_pointer(store).release)
    info = msgspec.structs.replace(read_info(path), index=IndexInfo(kind="int8"))
    (path / INFO).write_bytes(msgspec.json.encode(info))
    reseal(path)
    with pytest.raises(ReleaseMismatch, match=r"lacks index\.safetensors"):
        verify_release(path)


def test_a_release_that_names_no_index_has_a_flat_one(store: Path) -> None:
    path = release_path(store, read_pointer(store).release)
    info = json.loads((path / INFO).read_text())
    del info["index"]
    (path / INFO).write_text(json.dumps(info))
    assert read_info(path).index.kind == "flat"


def test_release_info_must_be_readable(store: Path) -> None:
    path = release_path(store, read_pointer(store).release)
    assert msgspec.json.encode(read_info(path))
    (path / INFO).write_text("{")
    with pytest.raises(ReleaseMismatch):
        read_info(path)
