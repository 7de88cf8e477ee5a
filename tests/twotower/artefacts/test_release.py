"""The store's pointer only grows, and a release whose parts disagree is refused."""

import json
import shutil
import sys
from pathlib import Path

import msgspec
import pytest

from twotower.artefacts.cache import fetch
from twotower.artefacts.manifest import MANIFEST, seal
from twotower.artefacts.release import (
    INFO,
    KIND,
    MAX_ROLLBACKS,
    POINTER,
    POINTERS,
    VECTORS,
    Pointer,
    list_releases,
    mend_current,
    newest,
    open_store,
    read_info,
    read_pointer,
    release_path,
    rollbacks,
    verify_release,
    write_pointer,
)
from twotower.artefacts.store import LocalStore
from twotower.errors import EnvironmentProblem, IntegrityError, ReleaseMismatch, StoreError
from twotower.index.kinds import IndexInfo


@pytest.fixture
def store(tiny_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_store, tmp_path / "store"))


def reseal(path: Path) -> None:
    """Make the manifest true again after tampering, as a careless or hostile publisher would."""
    (path / MANIFEST).unlink()
    seal(path, KIND, parent=read_info(path).bundle_id)


def test_the_current_release_is_whole(store: Path) -> None:
    pointer = read_pointer(store)
    assert list_releases(store) == [pointer.release]
    _, info = verify_release(release_path(store, pointer.release))
    assert info.num_items == 400


def another(store: Path, number: int) -> str:
    """A release directory of which only the name matters."""
    (store / "releases" / f"release-{number:012}").mkdir()
    return f"release-{number:012}"


def test_every_new_pointer_has_a_higher_number(store: Path) -> None:
    first = read_pointer(store)
    second = write_pointer(store, another(store, 2), reason="test")
    assert (second.sequence, second.previous) == (first.sequence + 1, first.release)
    assert read_pointer(store) == second


def test_pointing_at_what_is_current_leads_a_rollback_nowhere_new(store: Path) -> None:
    first = read_pointer(store)
    write_pointer(store, another(store, 2), reason="test")
    again = write_pointer(store, another(store, 3), reason="test")
    assert rollbacks(write_pointer(store, again.release, reason="test")) == (again.previous, first.release)


def test_only_so_many_rollbacks_are_remembered(store: Path) -> None:
    names = [write_pointer(store, another(store, n), reason="test").release for n in range(2, 40)]
    assert rollbacks(read_pointer(store)) == tuple(reversed(names[:-1]))[:MAX_ROLLBACKS]


def test_a_pointer_is_refused_when_another_came_since(store: Path) -> None:
    at_start = newest(store)
    winner = write_pointer(store, another(store, 2), reason="an operator")
    with pytest.raises(StoreError, match="published meanwhile"):
        write_pointer(store, another(store, 3), "a run that began before", at_start)
    assert read_pointer(store) == winner


def test_a_pointer_never_names_what_is_not_there(store: Path) -> None:
    before = newest(store)
    with pytest.raises(StoreError, match="no release"):
        write_pointer(store, "release-00000000000a", reason="test")
    assert newest(store) == before


def test_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="twotower embed"):
        read_pointer(tmp_path)


@pytest.mark.parametrize(
    "content", [None, b"", b"{}", b"not json", b'{"sequence": 1', b'{"release": "\xff"}', b'{"a":' * 100_000]
)
def test_current_may_be_lost_or_damaged(store: Path, content: bytes | None) -> None:
    pointer = write_pointer(store, another(store, 2), reason="test")
    (store / POINTER).unlink()
    if content is not None:
        (store / POINTER).write_bytes(content)
    assert read_pointer(store) == pointer
    assert write_pointer(store, another(store, 3), reason="test").sequence == 3
    assert json.loads((store / POINTER).read_text())["sequence"] == 3


def test_the_numbered_pointers_may_be_lost(store: Path) -> None:
    pointer = write_pointer(store, another(store, 2), reason="test")
    shutil.rmtree(store / POINTERS)
    assert read_pointer(store) == pointer
    assert write_pointer(store, another(store, 3), reason="test").sequence == 3


def test_a_store_of_before_there_were_numbered_pointers_goes_on(store: Path) -> None:
    shutil.rmtree(store / POINTERS)
    old = json.loads((store / POINTER).read_text()) | {"sequence": 41, "previous": "release-0123456789ab"}
    del old["earlier"]
    (store / POINTER).write_text(json.dumps(old))
    assert write_pointer(store, another(store, 2), reason="test").sequence == 42
    assert rollbacks(read_pointer(store)) == (old["release"], "release-0123456789ab")


def test_a_newest_pointer_that_is_lost_in_both_places_is_refused_and_its_number_not_given_again(store: Path) -> None:
    write_pointer(store, another(store, 2), reason="test")
    for path in (store / POINTER, store / POINTERS / "000000000002.json"):
        path.write_text('{"sequence": 2, "rel')
    with pytest.raises(StoreError, match="activate"):
        read_pointer(store)
    assert write_pointer(store, another(store, 3), reason="test").sequence == 3
    assert read_pointer(store).sequence == 3


def test_a_store_without_any_readable_pointer_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / POINTER).write_text("not json")
    with pytest.raises(StoreError, match="activate"):
        read_pointer(tmp_path)


@pytest.mark.parametrize("name", ["release-none", "release-0123456789ab", "../store", "..", ""])
def test_an_unknown_release_is_refused(store: Path, name: str) -> None:
    with pytest.raises(StoreError, match="no release"):
        release_path(store, name)


@pytest.mark.parametrize("name", ["../outside", "/etc", "..", "", "release-0123456789ab/../x", "release-\u0661\u0661"])
def test_a_pointer_that_names_a_path_leads_nowhere(store: Path, name: str) -> None:
    pointer = msgspec.structs.replace(read_pointer(store), sequence=7, release=name)
    (store / POINTERS / "000000000007.json").write_bytes(msgspec.json.encode(pointer))
    with pytest.raises(StoreError, match="no release"):
        fetch(LocalStore(store), read_pointer(store).release)


def test_current_is_mended_where_a_run_ended_before_it_was_written(store: Path) -> None:
    behind = (store / POINTER).read_bytes()
    pointer = write_pointer(store, another(store, 2), reason="test")
    (store / POINTER).write_bytes(behind)
    mend_current(LocalStore(store))
    assert msgspec.json.decode((store / POINTER).read_bytes(), type=Pointer) == pointer


def test_a_flipped_bit_in_the_vectors_is_refused(store: Path) -> None:
    path = release_path(store, read_pointer(store).release)
    content = bytearray((path / VECTORS).read_bytes())
    content[len(content) // 2] ^= 16
    (path / VECTORS).write_bytes(content)
    with pytest.raises(IntegrityError, match=VECTORS):
        verify_release(path)


@pytest.mark.parametrize("field", ["vector_space_id", "vector_width", "bundle_id"])
def test_parts_that_do_not_belong_together_are_refused(store: Path, field: str) -> None:
    path = release_path(store, read_pointer(store).release)
    info, parent = json.loads((path / INFO).read_text()), read_info(path).bundle_id
    info[field] = 7 if field == "vector_width" else "another"
    (path / INFO).write_text(json.dumps(info))
    (path / MANIFEST).unlink()
    seal(path, KIND, parent=parent)
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


def test_an_address_names_a_directory_or_a_bucket(tmp_path: Path, s3_store: str) -> None:
    here, there = open_store(str(tmp_path)), open_store(s3_store)
    assert (here, str(there)) == (LocalStore(tmp_path), s3_store)
    assert open_store(here) is here


def test_a_bucket_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "twotower.artefacts.object_store", raising=False)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(EnvironmentProblem, match=r"twotower\[s3\]"):
        open_store("s3://shop/main")
