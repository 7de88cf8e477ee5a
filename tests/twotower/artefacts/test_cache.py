"""A release of a store that is elsewhere is downloaded once, verified, and never trusted because it is there."""

import json
import shutil
from pathlib import Path

import pytest

from twotower.artefacts.cache import fetch, keep, local_copy
from twotower.artefacts.object_store import ObjectStore, connect
from twotower.artefacts.release import VECTORS, newest, read_pointer, verify_release, write_pointer
from twotower.artefacts.signature import load_signer, make_keys
from twotower.artefacts.store import LocalStore
from twotower.errors import IntegrityError, StoreError


@pytest.fixture
def store(s3_store: str, tiny_store: Path) -> ObjectStore:
    """A bucket with the tiny shop's release."""
    store, release = connect(s3_store), read_pointer(tiny_store).release
    store.add(tiny_store / "releases" / release, release)
    write_pointer(store, release, reason="test")
    return store


def test_a_directory_store_is_its_own_copy(tiny_store: Path) -> None:
    release = read_pointer(tiny_store).release
    assert fetch(LocalStore(tiny_store), release) == tiny_store / "releases" / release
    assert local_copy(LocalStore(tiny_store)) == tiny_store


def test_the_copy_of_a_bucket_is_a_store_with_its_release_and_its_pointer(store: ObjectStore) -> None:
    path = local_copy(store)
    assert read_pointer(path) == read_pointer(store)
    verify_release(path / "releases" / read_pointer(path).release)
    assert sorted(p.name for p in (path / "releases").iterdir()) == [read_pointer(store).release]


def test_what_is_there_is_not_downloaded_again(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    path = local_copy(store)
    monkeypatch.setattr(ObjectStore, "reread", None)
    assert local_copy(store) == path


def test_a_copy_that_rotted_is_downloaded_again(store: ObjectStore) -> None:
    path = fetch(store, read_pointer(store).release)
    (path / VECTORS).write_bytes(b"rotten")
    verify_release(fetch(store, path.name))


def test_a_damaged_release_is_never_kept(store: ObjectStore) -> None:
    release = read_pointer(store).release
    store.replace(f"releases/{release}/{VECTORS}", b"rotten")
    with pytest.raises(IntegrityError, match=VECTORS):
        local_copy(store)
    assert not list((store.local / "releases").iterdir())
    assert newest(store.local).sequence == 0, "the copy points at nothing that it does not hold"


def test_an_unsigned_release_is_not_even_downloaded(store: ObjectStore, tmp_path: Path) -> None:
    verifier = load_signer(make_keys(tmp_path / "keys")[0]).verifier
    local_copy(store)
    with pytest.raises(IntegrityError, match="not signed"):
        local_copy(store, verifier)


def test_a_store_that_went_back_is_not_followed(store: ObjectStore) -> None:
    release = read_pointer(store).release
    write_pointer(store, release, reason="test")
    local_copy(store)
    for key in ("CURRENT", "pointers/000000000002.json"):
        store.delete(key)
    assert read_pointer(store).sequence == 1
    with pytest.raises(StoreError, match="at pointer 1, but was at 2"):
        local_copy(store)
    shutil.rmtree(store.local)
    assert json.loads((local_copy(store) / "CURRENT").read_text())["sequence"] == 1


def test_what_another_pointer_names_is_kept_with_that_pointer(store: ObjectStore, tiny_store: Path) -> None:
    pointer = read_pointer(store)
    assert keep(LocalStore(tiny_store), pointer) == tiny_store / "releases" / pointer.release
    verify_release(keep(store, pointer))
    assert read_pointer(store.local) == pointer
