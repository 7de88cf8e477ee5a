"""Whatever ends the nightly job, the pointer names a complete verified release, and the next night goes on from there."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.index import load_release
from twotower.errors import StoreError
from twotower.release import list_releases, newest, read_pointer, release_path, verify_release

ROOT = Path(__file__).parents[2]


class Ended(NamedTuple):
    """How a run of the job ended."""

    status: int  # negative: the signal that killed it
    said: str


class Nights:
    """Runs `twotower embed` on the 20 items of a night, in forks of a process that has imported it."""

    def __init__(self, process: "subprocess.Popen[str]", bundle: Path, items: pa.Table, directory: Path) -> None:
        self.process, self.bundle, self.items, self.directory = process, bundle, items, directory

    def embed(self, store: Path, night: int, fault: str = "none", value: Any = None, *options: str) -> Ended:
        items = self.directory / f"{night}.parquet"
        pq.write_table(self.items.slice(night, 20), items)
        argv = ["embed", "--bundle", self.bundle, "--items", items, "--store", store, "--force", "--reason", "tiny", *options]
        return self.run(fault, value, *map(str, argv))

    def run(self, fault: str, value: Any, *argv: str) -> Ended:
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps({"fault": [fault, value], "argv": argv}), file=self.process.stdin, flush=True)
        return Ended(**json.loads(self.process.stdout.readline()))


@pytest.fixture(scope="module")
def nights(tiny_shop: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nights]:
    items, directory = pq.read_table(tiny_shop / "items.parquet"), tmp_path_factory.mktemp("items")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TWOTOWER_CACHE": str(directory)}
    command, pipe = [sys.executable, str(Path(__file__).with_name("nightly.py"))], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        yield Nights(process, tiny_bundle, items, directory)
        assert process.stdin
        process.stdin.close()


@pytest.fixture
def store(nights: Nights, tmp_path: Path) -> Path:
    """One release is served."""
    ended = nights.embed(tmp_path / "store", 0)
    assert ended.status == 0, ended.said
    return tmp_path / "store"


def check(store: Path) -> None:
    """What must be true of a store at every moment once something was published."""
    verify_release(release_path(store, read_pointer(store).release))
    for release in list_releases(store):
        verify_release(release_path(store, release))


def check_ended(store: Path) -> None:
    """What must be true once a run came to its end: besides, nothing is left over, and CURRENT says what the numbers say."""
    check(store)
    assert json.loads((store / "CURRENT").read_bytes())["sequence"] == newest(store).sequence
    assert not [path for path in store.glob("*/.*") if path.is_dir()]
    assert len(list_releases(store)) == newest(store).sequence


def names(store: Path) -> list[str]:
    """What lies in a store, as far as a reader could take it for something."""
    return sorted(str(path.relative_to(store)) for path in store.glob("*/*") if not path.name.startswith(".staging"))


@pytest.fixture
def watcher(store: Path) -> Iterator[list[str]]:
    """A server's part, played all the while: it looks at the pointer, and loads and proves each release that is new."""
    ended, loaded, failed = threading.Event(), list[str](), list[str]()

    def watch() -> None:
        while not ended.is_set():
            try:
                if (release := read_pointer(store).release) not in loaded[-1:]:
                    loaded.append(load_release(store).id)
            except Exception as error:  # whatever it is, a server would have met it
                failed.append(f"{release}: {error!r}")
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    yield loaded
    ended.set()
    thread.join()
    assert not failed, failed


def test_it_may_be_killed_at_every_step(nights: Nights, store: Path, watcher: list[str]) -> None:
    before = names(store)
    for step in itertools.count(1):
        ended = nights.embed(store, step, "kill", step)
        check(store)
        if ended.status != -9:
            break
        if names(store) != before or step == 20:
            assert nights.embed(store, step).status == 0
            check_ended(store)
            before = names(store)
        for left in (store / "releases").glob(".staging-*"):
            shutil.rmtree(left)  # else the next night's first steps were to do so
    assert ended.status == 0, ended.said
    check_ended(store)
    assert step > 40, "or the steps are not seen any more"
    assert len(watcher) > 10
    print(step, names(store), watcher)
