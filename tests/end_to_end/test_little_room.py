"""Too little room on the disk or in memory ends a run with one line; what is served stays, and a run with room succeeds."""

import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Ended, Nights
from twotower.artefacts.release import list_releases, newest, read_pointer, release_path, verify_release

MIB = 1 << 20


def check_refused(ended: Ended) -> None:
    """One line for the operator, no traceback, the status of what can be put right."""
    assert ended.status == 2, ended.said
    assert "Traceback" not in ended.said
    assert sum("twotower: error: " in line for line in ended.said.splitlines()) == 1, ended.said


def check_store(store: Path) -> None:
    """The pointer names a whole release and nothing half done lies about."""
    for release in {read_pointer(store).release, *list_releases(store)}:
        verify_release(release_path(store, release))
    assert not list((store / "releases").glob(".*"))


def test_the_disk_may_be_full_at_every_step(nights: Nights, store: Path) -> None:
    """A run that fails after the pointer's own step has published all the same; no directory is made that is there."""
    for step in itertools.count(1):
        ended = nights.embed(store, step, "disk full", step)
        check_store(store)
        if "no space at this step" not in ended.said:
            break
        if ended.status:
            check_refused(ended)
            assert "No space left on device" in ended.said
    assert ended.status == 0, ended.said
    assert step > 30, "or the steps are not seen any more"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, 1 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path], check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("index", ["ivfpq", "int8"])
def test_the_disk_may_fill_up_in_any_file(nights: Nights, small_disk: Path, index: str) -> None:
    """With further blocks another write is the first that does not fit, also those of the native libraries."""
    store, options = small_disk / "store", ("--index", index)
    assert nights.embed(store, 0, "none", None, *options).status == 0
    before = read_pointer(store)
    used = os.statvfs(small_disk).f_blocks - os.statvfs(small_disk).f_bfree
    for blocks in itertools.count(used, 3):
        size = f"remount,size={blocks * os.statvfs(small_disk).f_bsize}"
        subprocess.run(["mount", "-o", size, small_disk], check=True)
        ended = nights.embed(store, 1, "none", None, *options)
        check_store(store)
        if not ended.status:
            break
        check_refused(ended)
    assert blocks > used + 10, "or the disk was never full"
    assert read_pointer(store).sequence == before.sequence + 1


@pytest.mark.parametrize("extra", [0, MIB, 4 * MIB])
def test_a_run_without_memory_leaves_the_store_as_it_was(nights: Nights, store: Path, extra: int) -> None:
    before = newest(store)
    ended = nights.embed(store, 1, "memory", extra)
    check_store(store)
    check_refused(ended)
    assert "needs more memory" in ended.said
    assert newest(store) == before


@pytest.mark.parametrize("extra", [0, MIB, 4 * MIB])
def test_a_server_without_memory_does_not_start(nights: Nights, store: Path, extra: int) -> None:
    history = f"sqlite:///{store.parent / 'history.db'}"
    ended = nights.run("memory", extra, "serve", "--store", str(store), "--port", "0", "--history", history)
    check_refused(ended)
    assert "needs more memory" in ended.said
