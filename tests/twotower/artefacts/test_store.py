"""What every kind of store promises, tried on a directory and on a bucket; and what only a directory does."""

import os
import time
from pathlib import Path

import pytest

from twotower.artefacts.manifest import seal, verify_directory
from twotower.artefacts.store import LEFT_BEHIND_S, LocalStore, Store
from twotower.errors import StoreError

A, B = "release-00000000000a", "release-00000000000b"


def sealed(store: Store, text: str = "hello") -> Path:
    """A directory as the job leaves it, beside where it will be."""
    path = store.local / "releases" / f".staging-{time.time_ns()}"
    path.mkdir(parents=True)
    (path / "x.txt").write_text(text)
    seal(path, "release", parent=None)
    return path


def test_a_file_is_created_once_and_replaced_at_will(any_store: Store) -> None:
    with any_store.exclusive():
        assert any_store.read("pointers/1") is None
        assert any_store.create("pointers/1", b"one")
        assert not any_store.create("pointers/1", b"another")
        assert any_store.read("pointers/1") == b"one"
        any_store.replace("CURRENT", b"two")
        any_store.replace("CURRENT", b"three")
    assert any_store.read("CURRENT") == b"three"


def test_names_are_those_of_one_folder(any_store: Store) -> None:
    assert any_store.names("pointers") == []
    for key in ("pointers/2", "pointers/10", "CURRENT"):
        any_store.replace(key, b"")
    assert any_store.names("pointers") == ["10", "2"]
    any_store.delete("pointers/2")
    any_store.delete("pointers/2")
    assert any_store.names("pointers") == ["10"]


def test_what_was_added_is_listed_and_read_again(any_store: Store) -> None:
    assert list(any_store.releases()) == []
    any_store.add(sealed(any_store), A)
    time.sleep(1.1 if not isinstance(any_store, LocalStore) else 0.01)  # S3 tells times in seconds
    any_store.add(sealed(any_store, "another"), B)
    assert list(any_store.releases()) == [A, B]
    assert abs(any_store.releases()[A] - time.time()) < 60
    with any_store.reread(A, None) as path:
        verify_directory(path, "release")
        assert (path / "x.txt").read_text() == "hello"


def test_a_damaged_release_is_replaced(any_store: Store) -> None:
    any_store.add(sealed(any_store), A)
    any_store.replace(f"releases/{A}/x.txt", b"rotten")
    any_store.add(sealed(any_store), A)
    with any_store.reread(A, None) as path:
        verify_directory(path, "release")


def test_a_retired_release_is_none_any_more_and_swept_away(any_store: Store) -> None:
    for release in (A, B):
        any_store.add(sealed(any_store, release), release)
    assert any_store.retire(A, lambda: False)
    assert list(any_store.releases()) == [B]
    any_store.sweep()
    assert any_store.names(f"releases/{A}") == []
    assert any_store.names(f"releases/{B}") == ["manifest.json", "x.txt"]


def test_a_release_that_turns_out_to_be_wanted_is_not_retired(any_store: Store) -> None:
    any_store.add(sealed(any_store), A)
    assert not any_store.retire(A, lambda: True)
    any_store.sweep()
    with any_store.reread(A, None) as path:
        verify_directory(path, "release")


def test_a_release_published_again_after_it_was_retired_stays(any_store: Store) -> None:
    any_store.add(sealed(any_store), A)
    any_store.retire(A, lambda: False)
    any_store.add(sealed(any_store), A)
    any_store.sweep()
    with any_store.reread(A, None) as path:
        verify_directory(path, "release")


def test_names_that_are_no_release_ids_are_not_listed(any_store: Store) -> None:
    for name in ("release-XYZ", "release-0", "other"):
        (any_store.local / "releases" / name).mkdir(parents=True)
        any_store.replace(f"releases/{name}/manifest.json", b"{}")
    assert list(any_store.releases()) == []


def test_a_link_to_a_directory_elsewhere_is_no_release(tmp_path: Path) -> None:
    elsewhere = sealed(LocalStore(tmp_path / "elsewhere"))
    (tmp_path / "store" / "releases").mkdir(parents=True)
    (tmp_path / "store" / "releases" / A).symlink_to(elsewhere)
    assert list(LocalStore(tmp_path / "store").releases()) == []


def test_only_what_was_left_long_ago_is_swept(tmp_path: Path) -> None:
    store, folder = LocalStore(tmp_path), tmp_path / "releases"
    for name, age_s in ((".staging-new", 0), (".staging-old", LEFT_BEHIND_S + 60), (".removed-x", 0), (".damaged-x", 0)):
        (folder / name).mkdir(parents=True)
        os.utime(folder / name, (time.time() - age_s,) * 2)
    store.sweep()
    assert [p.name for p in folder.iterdir()] == [".staging-new"]


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot write"):
        LocalStore(tmp_path / "file").replace("CURRENT", b"")
