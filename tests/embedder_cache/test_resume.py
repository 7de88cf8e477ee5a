"""A run that was stopped goes on where it stopped, and ends with what it would have made."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from embedder_cache.build import Published, build_release
from embedder_cache.resume import Parts, work_directory
from twotower.bundle import load_bundle
from twotower.errors import DataError, EnvironmentProblem

CONTENT = np.array([3, 1, 4], np.uint64)
VECTORS = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path / "parts", width=2)


@pytest.fixture
def items(tiny_shop: Path, tmp_path: Path) -> Path:
    """The tiny shop's catalogue in four batches of 100 items."""
    pq.write_table(pq.read_table(tiny_shop / "items.parquet"), tmp_path / "items.parquet", row_group_size=100)
    return tmp_path / "items.parquet"


@pytest.fixture
def whole(tiny_bundle: Path, items: Path, tmp_path: Path) -> str:
    """The release of a run that was never stopped."""
    return build_release(load_bundle(tiny_bundle), items, tmp_path / "whole", None).release


def stop(bundle: Path, items: Path, store: Path, after: int) -> list[Path]:
    """Kill a run that has written so many batches; the files it leaves."""
    killed = (
        "import os, signal, sys; from itertools import count; from pathlib import Path; "
        "from embedder_cache.build import build_release; from twotower.bundle import load_bundle; "
        "bundle, items, store = map(Path, sys.argv[1:4]); left = iter(range(int(sys.argv[4]) - 1, -1, -1)); "
        "build_release(load_bundle(bundle), items, store, None, lambda n: next(left) or os.kill(os.getpid(), signal.SIGKILL))"
    )
    command = [sys.executable, "-c", killed, bundle, items, store, after]
    assert subprocess.run([str(c) for c in command], check=False, timeout=120).returncode == -signal.SIGKILL
    return sorted(work_directory(store).glob("*/*"))


def go_on(bundle: Path, items: Path, store: Path) -> Published:
    return build_release(load_bundle(bundle), items, store, None)


def test_a_batch_is_read_back_as_it_was_written(parts: Parts) -> None:
    parts.write(CONTENT, VECTORS)
    read = parts.read(CONTENT)
    assert read is not None
    np.testing.assert_array_equal(read, VECTORS)


def test_a_batch_of_other_items_is_not_there(parts: Parts) -> None:
    parts.write(CONTENT, VECTORS)
    assert parts.read(CONTENT[:2]) is None
    assert parts.read(CONTENT[::-1]) is None


def test_a_file_cut_short_anywhere_is_not_there(parts: Parts) -> None:
    parts.write(CONTENT, VECTORS)
    path = next(parts.directory.iterdir())
    raw = path.read_bytes()
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        assert parts.read(CONTENT) is None


def test_a_file_with_any_bit_flipped_is_not_there(parts: Parts) -> None:
    parts.write(CONTENT, VECTORS)
    path = next(parts.directory.iterdir())
    raw = path.read_bytes()
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert parts.read(CONTENT) is None


def test_a_file_under_the_name_of_another_is_not_there(parts: Parts) -> None:
    parts.write(CONTENT, VECTORS)
    mine = next(parts.directory.iterdir())
    parts.write(CONTENT + np.uint64(1), VECTORS)
    other = next(p for p in parts.directory.iterdir() if p != mine)
    shutil.copy(mine, other)
    assert parts.read(CONTENT + np.uint64(1)) is None


def test_a_disk_that_takes_no_more_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentProblem, match="Make room"):
        Parts(tmp_path / "file", 2).write(CONTENT, VECTORS)


def test_a_killed_run_is_gone_on_with_and_ends_with_the_same_release(
    tiny_bundle: Path, items: Path, whole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    assert len(stop(tiny_bundle, items, store, after=1)) == 1
    assert len(stop(tiny_bundle, items, store, after=3)) == 3, "killed again: it had gone on"
    published = go_on(tiny_bundle, items, store)
    assert (published.release, published.num_items, published.num_embedded) == (whole, 400, 100)
    assert "going on with 300 items embedded by a run that was stopped" in capsys.readouterr().err
    assert not work_directory(store).exists(), "nothing is left of it"


def test_what_is_damaged_is_embedded_again(tiny_bundle: Path, items: Path, whole: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    torn, flipped, _ = stop(tiny_bundle, items, store, after=3)
    torn.write_bytes(torn.read_bytes()[:5000])
    raw = bytearray(flipped.read_bytes())
    raw[700] ^= 4
    flipped.write_bytes(raw)
    published = go_on(tiny_bundle, items, store)
    assert (published.release, published.num_embedded) == (whole, 300)


def test_a_batch_of_which_an_item_has_changed_is_embedded_again(tiny_bundle: Path, items: Path, tmp_path: Path) -> None:
    stop(tiny_bundle, items, tmp_path / "store", after=3)
    table = pq.read_table(items)
    prices = table["price"].to_numpy().copy()
    prices[150] = 77.0
    pq.write_table(table.set_column(table.schema.get_field_index("price"), "price", [prices]), items, row_group_size=100)
    published = go_on(tiny_bundle, items, tmp_path / "store")
    assert published.num_embedded == 200
    assert published.release == go_on(tiny_bundle, items, tmp_path / "another").release


def test_a_run_refused_at_its_end_leaves_what_it_embedded(tiny_bundle: Path, items: Path, tmp_path: Path) -> None:
    bundle, store = load_bundle(tiny_bundle), tmp_path / "store"
    pq.write_table(pq.read_table(items).slice(0, 100), tmp_path / "few.parquet")
    build_release(bundle, tmp_path / "few.parquet", store, None)
    with pytest.raises(DataError, match="item count change"):
        build_release(bundle, items, store, None)
    published = build_release(bundle, items, store, None, forced="it grows")
    assert (published.num_items, published.num_embedded) == (400, 0)
