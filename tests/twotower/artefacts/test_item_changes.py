import sqlite3
from pathlib import Path

import pytest

from twotower.artefacts.item_changes import Changes, DeltaStore, read_delta
from twotower.errors import EnvironmentProblem, FormatError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "delta.db"


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def test_what_is_written_is_read_in_the_order_of_each_items_last_change(path: Path) -> None:
    store = DeltaStore(path)
    store.write({"a": {"price": 1.5, "tags": ["x", None]}, "b": None})
    store.write({"c": {}, "a": {"price": 2}})
    assert list(DeltaStore(path).settle(0).items.items()) == [("b", None), ("c", {}), ("a", {"price": 2})]
    assert read_delta(url(path)) == Changes(2, {"b": None, "c": {}, "a": {"price": 2}})


def test_changes_that_the_served_release_holds_are_neither_served_nor_folded_in_again(path: Path) -> None:
    store = DeltaStore(path)
    store.write({"a": {}})
    store.write({"b": {}})
    assert store.settle(1) == Changes(2, {"b": {}})
    assert read_delta(url(path)) == Changes(2, {"b": {}})


def test_one_step_back_brings_changes_back_two_steps_do_not(path: Path) -> None:
    store = DeltaStore(path)
    store.write({"a": {}})
    store.settle(1)
    store.write({"b": {}})
    store.settle(2)
    assert list(store.settle(1).items) == ["b"]
    assert list(read_delta(url(path)).items) == ["b"]
    assert list(store.settle(0).items) == ["b"]


def test_a_file_newer_than_the_release_numbers_its_changes_after_those_of_the_release(path: Path) -> None:
    store = DeltaStore(path)
    assert store.settle(7) == Changes(7, {})
    store.write({"a": {}})
    assert store.settle(7) == Changes(8, {"a": {}})


def test_the_nightly_job_leaves_the_file_as_it_is_and_needs_one(path: Path) -> None:
    for wrong in (url(path), "redis://x", "sqlite:///"):
        with pytest.raises(EnvironmentProblem, match="--delta must be"):
            read_delta(wrong)
    assert not path.exists()
    path.write_bytes(b"no database" * 100)
    with pytest.raises(EnvironmentProblem, match="cannot be read as item changes"):
        read_delta(url(path))


def test_a_file_of_another_version_is_refused(path: Path) -> None:
    DeltaStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(FormatError, match="item changes of version 9"):
        DeltaStore(path)


def test_asking_what_a_release_lacks_settles_nothing(path: Path) -> None:
    store = DeltaStore(path)
    store.write({"a": {}})
    store.settle(1)
    store.write({"b": {}})
    assert store.after(0) == Changes(2, {"a": {}, "b": {}})
    assert store.after(2) == Changes(2, {})
    assert read_delta(url(path)) == Changes(2, {"b": {}})
