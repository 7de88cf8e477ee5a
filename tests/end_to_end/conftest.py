"""The nightly job on twenty items, run as a process of its own with a fault of the test's choosing."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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
        return self.run(fault, value, *argv)

    def run(self, fault: str, value: Any, *argv: object) -> Ended:
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps({"fault": [fault, value], "argv": [*map(str, argv)]}), file=self.process.stdin, flush=True)
        return Ended(**json.loads(self.process.stdout.readline()))


@pytest.fixture(scope="session")
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
